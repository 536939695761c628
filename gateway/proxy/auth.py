"""Authenticate: a bearer key becomes a principal, the pair of key and feature that pays."""

import hmac
from collections.abc import Mapping

from gateway.core.control_headers import PRIORITY
from gateway.core.errors import InvalidApiKey, InvalidRequest, PermissionDenied
from gateway.core.overload import Priority
from gateway.core.tenancy import KeyEntry, Principal, Tenancy

# Longer than any key that is issued; bounds the work that a hostile header can cause.
MAX_SECRET_LENGTH = 512


def digest(pepper: bytes, secret: str) -> bytes:
    """What is stored and compared instead of the secret: HMAC-SHA256 under the server's pepper."""
    return hmac.digest(pepper, secret.encode("utf-8", "surrogateescape"), "sha256")


class Authenticator:
    """Finds the principal of requests under one tenancy."""

    def __init__(self, tenancy: Tenancy) -> None:
        self._tenancy = tenancy
        # Whole headers that were right before, at most one for each key and way of sending it. Guessing
        # never meets this cache: a wrong header is not in it and takes the hashed way.
        self._known: dict[tuple[bytes | None, bytes | None], KeyEntry] = {}
        self._noticed: set[str] = set()  # names of keys that were seen to have expired
        self._expired: list[Principal] = []

    def authenticate(self, headers: Mapping[bytes, bytes], now: float) -> Principal:
        """Who asks. Raises InvalidApiKey, InvalidRequest where two headers name different keys, or
        PermissionDenied for a feature that the key may not name."""
        sent = (headers.get(b"authorization"), headers.get(b"api-key"))
        entry = self._known.get(sent)
        if entry is None:
            entry = _entry(self._tenancy, *map(_text, sent))
            if len(self._known) >= 2 * len(self._tenancy.keys):
                self._known.clear()
            self._known[sent] = entry
        if entry.expires_at is not None and now >= entry.expires_at:
            self._note_expiry(entry)
            raise InvalidApiKey(f"The API key '{entry.name}' has expired. Ask its owner for a new one.")
        feature = headers.get(b"x-tollway-feature")
        return entry.default if feature is None else _principal(entry, feature.decode("latin-1"))

    def priority_of(self, headers: Mapping[bytes, bytes]) -> Priority:
        """That of a request which has not begun: of its key and feature, or batch where it says so itself.

        Cheap, and no failure. A key that was not seen yet counts as interactive.
        """
        if headers.get(PRIORITY, b"").strip().lower() == b"batch":
            return Priority.BATCH
        entry = self._known.get((headers.get(b"authorization"), headers.get(b"api-key")))
        if entry is None:
            return Priority.INTERACTIVE
        feature = headers.get(b"x-tollway-feature", b"").decode("latin-1")
        return entry.by_feature.get(feature, entry.default).priority

    def take_expired(self) -> list[Principal]:
        """The principals whose keys were found to have expired since the last call: each once."""
        expired, self._expired = self._expired, []
        return expired

    def _note_expiry(self, entry: KeyEntry) -> None:
        if entry.name not in self._noticed:
            self._noticed.add(entry.name)
            self._expired += entry.by_feature.values()


def _text(value: bytes | None) -> str | None:
    """Undecodable bytes are kept as Latin-1."""
    return None if value is None else value.decode("latin-1")


def _principal(entry: KeyEntry, feature: str) -> Principal:
    principal = entry.by_feature.get(feature)
    if principal is None:
        raise PermissionDenied(
            f"The API key '{entry.name}' may not act for this feature. "
            f"It may name: {', '.join(sorted(entry.by_feature))}.",
            param="x-tollway-feature",
            key=entry.name,
        )
    return principal


def _entry(tenancy: Tenancy, authorization: str | None, api_key: str | None) -> KeyEntry:
    # The Azure flavour of the SDK sends `api-key` instead of a bearer token.
    secret = _bearer(authorization) if authorization else api_key
    if authorization and api_key and secret != api_key:
        raise InvalidRequest(
            "The headers authorization and api-key say two different things. Send one of them.",
            param="api-key",
            code="invalid_header",
        )
    if not secret:
        raise InvalidApiKey(
            "You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'; "
            "keys are issued by the operators of this gateway."
        )
    found = digest(tenancy.pepper, secret[:MAX_SECRET_LENGTH])
    entry = tenancy.keys.get(found)
    if entry is None or not hmac.compare_digest(entry.digest, found) or len(secret) > MAX_SECRET_LENGTH:
        raise InvalidApiKey("Incorrect API key provided. Check it with the operators of this gateway.")
    return entry


def _bearer(authorization: str) -> str | None:
    scheme, _, secret = authorization.partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None
