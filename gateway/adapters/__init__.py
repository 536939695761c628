"""Floor 3: the outside world behind the ports: stores, upstream clients, metrics, catalogues."""
