"""What pages of other origins may read: all that this server's answers say, to who has a key."""

# By name: a browser does not take `*` for all of them where a request has credentials.
EXPOSED = (
    "x-request-id",
    "openai-processing-ms",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "x-tollway-changed",
    "x-tollway-cost-usd",
    "x-tollway-decision",
    "x-tollway-deployment",
    "x-tollway-masked",
    "x-tollway-output-cap",
    "x-tollway-policy",
    "x-tollway-zone",
)
LINES = (
    b"access-control-allow-origin: *\r\naccess-control-expose-headers: %b\r\n" % ", ".join(EXPOSED).encode()
)
