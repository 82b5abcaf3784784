"""Mechanical mutation: every small change to reference and impls is to be noticed, or known to change nothing."""
