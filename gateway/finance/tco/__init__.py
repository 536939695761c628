"""Total cost of ownership: the same traffic on either side, idle GPUs included."""
