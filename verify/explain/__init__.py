"""Which known mistake fits a failure."""
