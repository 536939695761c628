"""What attempts and GPUs cost: prices, the pool's bill, repricing, reports, both sides compared."""
