"""Floor 3: how callers reach the gateway: the data plane (plain ASGI) and the admin port."""
