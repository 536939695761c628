"""A gateway put together from a checked configuration: its object graph, its start and stop, its reloads."""
