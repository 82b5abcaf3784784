"""Compact correct implementations of the contract, written to be broken: every mutant is a small change to one."""
