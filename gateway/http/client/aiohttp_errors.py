"""aiohttp's exceptions as UpstreamFailure: the one place where they are told apart."""

from aiohttp.client_exceptions import (
    ClientConnectorCertificateError,
    ClientConnectorError,
    ClientHttpProxyError,
    ClientPayloadError,
    ClientResponseError,
)
from aiohttp.http_exceptions import ContentLengthError, HttpProcessingError, TransferEncodingError

from gateway.core.errors import FailureKind, UpstreamFailure

# What aiohttp says when a chunked body stops short; everything else under this class is malformed.
_CHUNKED_CUT_SHORT = "Not enough data"


def translated(error: Exception, *, connected: bool) -> UpstreamFailure:
    """The meaning of `error`; `connected` tells a failure to connect from a broken connection."""
    if isinstance(error, UpstreamFailure):
        return error
    failure = UpstreamFailure(_kind(error, connected=connected), _detail(error))
    failure.__cause__ = error
    return failure


def _kind(error: BaseException, *, connected: bool) -> FailureKind:
    match error:
        case ClientConnectorError() | ClientConnectorCertificateError() | ClientHttpProxyError():
            return FailureKind.CONNECT
        case ClientPayloadError():
            return _payload_kind(error)
        case ClientResponseError() | HttpProcessingError():
            return FailureKind.PROTOCOL
        case _:
            return FailureKind.RESET if connected else FailureKind.CONNECT


def _payload_kind(error: ClientPayloadError) -> FailureKind:
    cause = error.__cause__
    if isinstance(cause, TransferEncodingError):
        cut_short = _CHUNKED_CUT_SHORT in cause.message
    else:
        cut_short = isinstance(cause, ContentLengthError) or not isinstance(cause, HttpProcessingError)
    return FailureKind.RESET if cut_short else FailureKind.PROTOCOL


def _detail(error: Exception) -> str:
    """For operators. aiohttp's texts quote what they are about, so only types and first lines are kept."""
    match error:
        case ClientConnectorCertificateError():
            return f"certificate of {error.host} refused: {error.certificate_error}"
        case ClientHttpProxyError():
            return f"the proxy answered {error.status}"
        case ClientResponseError():
            return f"malformed response: {error.message.splitlines()[0] if error.message else ''}"
        case ClientPayloadError():
            return "the body is malformed or cut short"
        case _:
            return f"{type(error).__name__}: {error}".splitlines()[0]
