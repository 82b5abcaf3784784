"""Known wrong formulas, tried on a failing case: which of them gives what the target returned."""
