"""How fast, how large: implementations side by side on one workload, in one run."""
