"""What operators ask a running gateway over the admin port: the FastAPI application and its routes."""
