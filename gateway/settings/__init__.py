"""Floor 4: reads `tollway.yaml` and the environment, validates it whole, and builds the core's values."""
