"""Groups of commands that `gateway.cli` mounts."""
