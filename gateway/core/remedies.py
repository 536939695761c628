"""What a refused attempt is sent again with: the gateway may have to take back what it has added itself."""

from gateway.core.sent import Sent
from gateway.dialects.refusals import REFUSING_STATUSES, Remedy, refused_field, smaller_cap
from gateway.dialects.table import StreamOptions, situation


def remedy_for(sent: Sent, status: int, text: str, param: str | None, code: str | None) -> Remedy | None:
    """What may help, where the upstream refused what the gateway had added; None: it refused something else.

    `text` is the beginning of its answer. Each remedy leaves less to refuse, so there is an end to them.
    """
    if status not in REFUSING_STATUSES:
        return None
    call, dialect, before = sent.call, sent.dialect, sent.remedy
    refused, most = (None, None) if before is None else (before.refused, before.most_output)
    where = situation(call.api, call.members)
    cap = dialect.cap_field(call.api, call.members)
    added = [] if cap is None else [cap]
    if call.stream and dialect.stream_options is StreamOptions.INJECT:
        added.append("stream_options")
    if field := refused_field(text, param, added):
        return Remedy(dialect.without(field, where), where, field, most)
    if cap is None or call.max_output is not None or most is not None:
        return None  # the size is what the client asked for, or was cut already
    smaller = smaller_cap(text, code, sent.output_cap)
    return None if smaller is None else Remedy(dialect, where, refused, smaller)
