"""Worlds: processes that stay, one per rank, in which the judged attention runs."""
