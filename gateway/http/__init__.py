"""Bytes on the wire, as server and as client. Knows no policy."""
