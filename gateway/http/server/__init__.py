"""The HTTP/1.1 server: connections, parser, exchanges, flow control and their limits."""
