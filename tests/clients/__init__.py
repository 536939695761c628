"""Client libraries of others, as they come, through the gateway (`make test-clients`)."""
