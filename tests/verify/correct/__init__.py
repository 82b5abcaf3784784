"""Correct implementations that differ in every way in which correct ones may: none of them is ever to be flagged."""
