"""A request that was answered with an error: what is logged of it, and kept for some days.

It holds nothing of the request's content. The message is the gateway's own, which never quotes a prompt; what
an upstream said is left out, since that may.
"""

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.errors import BudgetExceeded, GatewayError, LimitExceeded, RefusedBy, UpstreamRejected
from gateway.core.tenancy import Principal
from gateway.core.upstream_error import is_code

TEXT_CHARACTERS = 300  # of each text: a record takes about half a KB


class KnownRequest(msgspec.Struct, frozen=True, gc=False):
    """A request, as far as it was read: None and empty where it did not come so far.

    `started` is monotonic seconds; None: nobody noted it.
    """

    request_id: str
    started: float | None = None
    api: Api | None = None
    principal: Principal | None = None
    call: Call | None = None
    privacy: str = ""

    @property
    def model(self) -> str:
        """The name that the client sent, as logs and databases take it."""
        return "" if self.call is None else _short(self.call.model)


class RefusedRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One refused request. Texts are empty, and numbers 0, where nothing was known yet or nothing applies.

    `at` is UTC microseconds since 1970. `endpoint` to `stream` are as in the ledger; `model` is the name that
    the client sent, which may be none of ours. `scope` (`key:triage-app`) and `limit_name` are those of a
    limit or a budget. `attempts` were made before, the last one at `deployment`.

    Many attributes: it is a row of the table, one for each column.
    """

    request_id: str
    at: int
    status: int
    code: str
    refused_by: RefusedBy
    param: str = ""
    scope: str = ""
    limit_name: str = ""
    message: str = ""
    endpoint: str = ""
    org: str = ""
    team: str = ""
    feature: str = ""
    key: str = ""
    model: str = ""
    privacy: str = ""
    stream: bool = False
    deployment: str = ""
    attempts: int = 0


def refused_request(error: GatewayError, known: KnownRequest, at: int) -> RefusedRequest:
    """The record of a request that `error` ended at `at` (UTC microseconds)."""
    principal, call = known.principal, known.call
    limit = error if isinstance(error, LimitExceeded | BudgetExceeded) else None
    return RefusedRequest(
        request_id=known.request_id,
        at=at,
        status=error.status,
        code=error.code if error.code and is_code(error.code) else code_of(error),
        refused_by=error.refused_by,
        param=_param(error),
        scope="" if limit is None else limit.scope,
        limit_name="" if limit is None else limit.limit,
        message="" if isinstance(error, UpstreamRejected) else _short(error.message),
        endpoint="" if known.api is None else known.api,
        org="" if principal is None else principal.org,
        team="" if principal is None else principal.team,
        feature="" if principal is None else principal.feature,
        key="" if principal is None else principal.key,
        model=known.model,
        privacy=known.privacy,
        stream=call is not None and call.stream,
        deployment=error.deployment,
        attempts=error.attempts,
    )


def code_of(error: GatewayError) -> str:
    """Its code, of which there is a closed list: an upstream may put anything into its own."""
    return UpstreamRejected.code if isinstance(error, UpstreamRejected) else error.code


def _param(error: GatewayError) -> str:
    param = error.param or ""
    if isinstance(error, UpstreamRejected) and not is_code(param):
        return ""
    return _short(param)


def _short(text: str) -> str:
    """`text` as every database and JSON take it: cut, without NUL, lone surrogates replaced."""
    return text[:TEXT_CHARACTERS].replace("\0", "").encode("utf-8", "replace").decode()
