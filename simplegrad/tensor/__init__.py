"""What users hold: `Tensor`, the functions on it, creation of arrays."""
