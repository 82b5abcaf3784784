"""What runs inside a rank, and what goes between it and the gate."""
