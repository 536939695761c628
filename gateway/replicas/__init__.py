"""Which replicas of a deployment can take requests."""
