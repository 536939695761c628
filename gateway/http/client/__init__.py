"""An HTTP/1.1 client for upstreams: pool, connection, parser, dialer, resolver."""
