"""What the gate's numbers rest on: sweeps over correct implementations, their data, and what follows from it."""
