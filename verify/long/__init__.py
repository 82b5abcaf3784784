"""Lengths at which no process holds the sequence: judged at sampled rows, and by laws on every row."""
