"""vSphere types and wire codec over plain values: pure."""
