"""HTTP/1.1 clients behind the `Upstream` port: a lean one for the hot path, aiohttp for forward proxies."""
