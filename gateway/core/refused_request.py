"""A request that was answered with an error: what is logged of it, and kept for some days.

It holds nothing of the request's content. The message is the gateway's own, which never quotes a prompt; what
an upstream said is left out, since that may. A model, a path or a parameter that a client made up is there if
it looks like one: a card number in its place is not, nor any number as long as one.
"""

import re

import msgspec

from gateway.core.call import Call
from gateway.core.catalog import Api
from gateway.core.errors import (
    BudgetExceeded,
    GatewayError,
    LimitExceeded,
    ModelNotFound,
    RefusedBy,
    UpstreamRejected,
)
from gateway.core.policy import LONGEST_NAME
from gateway.core.tenancy import Principal
from gateway.core.upstream_error import is_code

TEXT_CHARACTERS = 300  # of each text: a record takes about half a KB
NOT_SHOWN = "(not shown)"
# Letters, and fewer digits than an account, a card or a personal number beside them: `gpt-4o-2024-08-06`.
_NAME = re.compile(r"(?=.*[A-Za-z])(?!(?:\D*\d){12})[A-Za-z0-9._:/-]{1,128}")
_QUOTED = re.compile("'(.*)'", re.DOTALL)
_PATH = re.compile(r"(?<= )/\S*")
_LONG_NUMBER = re.compile(r"\b\d{12,}\b")  # as many digits as no name has
_NO_BRACKETS = str.maketrans("", "", "[]")  # `messages[0].role` is a name without them


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
        """The name that the client sent, as logs and databases may have it."""
        return "" if self.call is None else shown(self.call.model)


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
        message=_message(error, call),
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


def shown(name: str) -> str:
    """`name`, which a client made up, where it looks like the name of a model or a path."""
    return name if not name or _NAME.fullmatch(name) else NOT_SHOWN


def _message(error: GatewayError, call: Call | None) -> str:
    """Its message, without what an upstream said, and names as they are `shown`."""
    if error.refused_by is RefusedBy.UPSTREAM:
        return ""
    message = error.message
    if error.param and not _is_name(error.param):
        message = message.replace(error.param, NOT_SHOWN)
    if call is not None and (name := call.model[:LONGEST_NAME]) and shown(name) != name:
        message = message.replace(name, NOT_SHOWN)
    elif call is None and isinstance(error, ModelNotFound):
        message = _QUOTED.sub(lambda quoted: f"'{shown(quoted[1])}'", message)
    message = _PATH.sub(lambda path: shown(path[0]), message)
    return _short(_LONG_NUMBER.sub(NOT_SHOWN, message))


def _param(error: GatewayError) -> str:
    param = _short(error.param or "")
    if isinstance(error, UpstreamRejected) and not is_code(param):
        return ""
    return param if _is_name(param) else NOT_SHOWN


def _is_name(param: str) -> bool:
    """Whether it looks like the name of a parameter, and not like content in the place of one."""
    name = param.translate(_NO_BRACKETS)
    return shown(name) == name


def _short(text: str) -> str:
    """`text` as every database and JSON take it: cut, without NUL, lone surrogates replaced."""
    return text[:TEXT_CHARACTERS].replace("\0", "").encode("utf-8", "replace").decode()
