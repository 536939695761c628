"""Where spans go, and which."""

from collections.abc import Mapping

import msgspec

from gateway.core.heads import RequestHead


class TraceSettings(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """`head` is what each request to the collector begins with, body headers included.

    `sample_ratio` is the share of traces that begin here and are recorded, from 0 to 1; others follow the
    caller. `resource` are the attributes of this process. Spans leave every `interval_seconds`, and at most
    `queue_spans` wait.
    """

    head: RequestHead
    sample_ratio: float
    resource: Mapping[str, str]
    interval_seconds: float
    queue_spans: int
