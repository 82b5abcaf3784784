"""Imprecise implementations are caught, correct ones are not: the precision check and the figures behind it."""
