"""What an upstream's error is about, and so who has to act: one table of signs, then the status alone.

Rules:
- What one candidate cannot do, another may: its limits, its parameters, what its server was started with.
- What is wrong with the request, or with what it says, is so everywhere: it is not shown around.
- A sign counts where its status makes it one: "context window" in a 429 is no reason to try elsewhere.
- In doubt an error is the candidate's: two refusals cost nothing, giving up too early costs an answer.
"""

import enum
import re
from collections.abc import Sequence

import msgspec
import orjson

from gateway.core.upstream_error import UpstreamError, read_error


class UpstreamVerdict(enum.StrEnum):
    """What an upstream's error is about."""

    REQUEST = "request"  # wrong wherever it goes
    CANDIDATE = "candidate"  # this deployment cannot do it
    ACCOUNT = "account"  # our key, money, permission, or name of the model there
    RATE_LIMITED = "rate_limited"  # our account's rate is used up for a while
    BUSY = "busy"  # too much to do for a while
    TIMED_OUT = "timed_out"  # a proxy on the way gave up waiting; the work may go on
    BROKEN = "broken"  # it failed


class Sign(msgspec.Struct, frozen=True):
    """`about` holds where the status is in `statuses`, and `code` or `says` is found.

    `code` is that of the error, its type, or its nested error's code: lower case, letters and digits only.
    """

    about: UpstreamVerdict
    statuses: frozenset[int]
    code: str = ""
    says: re.Pattern[str] | None = None


_REFUSALS = frozenset(range(400, 500)) - {401, 402, 407, 408, 425, 429}
_ANY_4XX = frozenset(range(400, 500))
_CONTENT = frozenset({400, 403, 422, 451})


def _code(about: UpstreamVerdict, statuses: frozenset[int], code: str) -> Sign:
    return Sign(about, statuses, code=code)


def _says(about: UpstreamVerdict, statuses: frozenset[int], pattern: str) -> Sign:
    return Sign(about, statuses, says=re.compile(pattern, re.IGNORECASE))


_REQUEST, _CANDIDATE, _ACCOUNT = UpstreamVerdict.REQUEST, UpstreamVerdict.CANDIDATE, UpstreamVerdict.ACCOUNT

# The first that holds decides.
SIGNS = (
    # Our account has no money, or is closed.
    _code(_ACCOUNT, _ANY_4XX, "insufficientquota"),
    _code(_ACCOUNT, _ANY_4XX, "quotaexceeded"),
    _code(_ACCOUNT, _ANY_4XX, "billinghardlimitreached"),
    _code(_ACCOUNT, _ANY_4XX, "billingnotactive"),
    _code(_ACCOUNT, _ANY_4XX, "billingerror"),
    _code(_ACCOUNT, _ANY_4XX, "accountdeactivated"),
    _code(_ACCOUNT, _ANY_4XX, "accessterminated"),
    _says(_ACCOUNT, _ANY_4XX, r"exceeded your current quota"),
    _says(_ACCOUNT, _ANY_4XX, r"credit balance is too low|insufficient (?:credits?|funds|balance)"),
    _says(
        _ACCOUNT,
        _ANY_4XX,
        r"(?:spend(?:ing)?|usage|billing) (?:hard )?limit (?:has been )?(?:reached|exceeded)",
    ),
    # Our key, our permission, our name for the model.
    _code(_ACCOUNT, _ANY_4XX, "invalidapikey"),
    _code(_ACCOUNT, _ANY_4XX, "authenticationerror"),
    _code(_ACCOUNT, _ANY_4XX, "modelnotfound"),
    _code(_ACCOUNT, _ANY_4XX, "deploymentnotfound"),
    _code(_ACCOUNT, _ANY_4XX, "modeldecommissioned"),
    _says(_ACCOUNT, _REFUSALS, r"\bapi key\b.{0,40}\b(?:invalid|not valid|incorrect|expired|missing)"),
    _says(_ACCOUNT, _REFUSALS, r"\bmodel\b.{0,120}\b(?:does not exist|not found|is not a valid model)"),
    # What the request says is refused: not to be asked of others until somebody agrees.
    _code(_REQUEST, _CONTENT, "contentfilter"),
    _code(_REQUEST, _CONTENT, "contentpolicyviolation"),
    _code(_REQUEST, _CONTENT, "responsibleaipolicyviolation"),
    _code(_REQUEST, _CONTENT, "moderationblocked"),
    _code(_REQUEST, _CONTENT, "invalidprompt"),
    _says(_REQUEST, _CONTENT, r"content management policy|safety system|usage polic(?:y|ies)"),
    _says(_REQUEST, _CONTENT, r"\bflagged\b.{0,60}\b(?:moderation|violat|unsafe|content)"),
    # Too long or too much for this one.
    _code(_CANDIDATE, _REFUSALS, "contextlengthexceeded"),
    _code(_CANDIDATE, _REFUSALS, "stringabovemaxlength"),
    _code(_CANDIDATE, _REFUSALS, "arrayabovemaxlength"),
    _code(_CANDIDATE, _REFUSALS, "requesttoolarge"),
    _says(_CANDIDATE, _ANY_4XX, r"request too large"),
    _says(_CANDIDATE, _REFUSALS, r"maximum (?:context|model|prompt|input) length"),
    _says(_CANDIDATE, _REFUSALS, r"context (?:window|length|size)"),
    _says(_CANDIDATE, _REFUSALS, r"prompt (?:is )?too long|too many (?:input |prompt )?tokens"),
    _says(
        _CANDIDATE,
        _REFUSALS,
        r"\bmax(?:_completion|_output)?_tokens\b.{0,40}\b(?:too large|too high|exceed|at most)",
    ),
    _says(_CANDIDATE, _REFUSALS, r"at most \d+ (?:image|audio|video|file|document|tool|message|stop|choice)"),
    _says(_CANDIDATE, _REFUSALS, r"too many (?:image|audio|video|file|document|tool|message|stop|choice)"),
    _says(
        _CANDIDATE,
        _REFUSALS,
        r"(?:image|audio|video|file|document)s?\b.{0,40}\b(?:too large|too big|exceeds?)",
    ),
    # What it, its model, or its server as it was started, does not know.
    _code(_CANDIDATE, _REFUSALS, "unsupportedparameter"),
    _code(_CANDIDATE, _REFUSALS, "unsupportedvalue"),
    _code(_CANDIDATE, _REFUSALS, "unknownparameter"),
    _code(_CANDIDATE, _REFUSALS, "unknownurl"),
    _code(_CANDIDATE, _REFUSALS, "unsupportedmodel"),
    _code(_CANDIDATE, _REFUSALS, "modelnotsupported"),
    _code(_CANDIDATE, _REFUSALS, "operationnotsupported"),
    _code(_CANDIDATE, _REFUSALS, "extraforbidden"),
    _says(_CANDIDATE, _REFUSALS, r"\b(?:does not|doesn't|do not|cannot|can't) (?:support|accept|handle)\b"),
    _says(
        _CANDIDATE,
        _REFUSALS,
        r"\b(?:is|are) not (?:yet |currently )?(?:supported|enabled|implemented|available)\b",
    ),
    _says(_CANDIDATE, _REFUSALS, r"\bnot supported (?:by|with|for|in|on)\b|\bunsupported\b"),
    _says(
        _CANDIDATE,
        _REFUSALS,
        r"\b(?:unrecognized|unknown|unexpected) (?:request |keyword |content |part )?"
        r"(?:argument|parameter|field|property|part|type)",
    ),
    _says(
        _CANDIDATE,
        _REFUSALS,
        r"extra (?:inputs|fields) (?:are )?not permitted|additional properties are not allowed",
    ),
    _says(_CANDIDATE, _REFUSALS, r"\bonly\b.{1,60}\b(?:is|are) supported|supported values are"),
    _says(_CANDIDATE, _REFUSALS, r"not a multimodal model|no endpoints found"),
    _says(_CANDIDATE, _REFUSALS, r"(?<![\w-])--[a-z][a-z-]{3,}"),
    # It is down, and not merely busy.
    _says(
        UpstreamVerdict.BROKEN,
        frozenset({503}),
        r"no healthy upstream|enginecore|engine (?:is )?dead|connection refused",
    ),
    _says(
        UpstreamVerdict.BROKEN,
        frozenset({503}),
        r"upstream connect error(?!.*overflow)|no server is available",
    ),
)

_BY_STATUS = {
    401: UpstreamVerdict.ACCOUNT,
    402: UpstreamVerdict.ACCOUNT,
    403: UpstreamVerdict.ACCOUNT,
    404: UpstreamVerdict.ACCOUNT,
    405: UpstreamVerdict.ACCOUNT,
    407: UpstreamVerdict.ACCOUNT,
    408: UpstreamVerdict.BROKEN,
    409: UpstreamVerdict.BROKEN,
    410: UpstreamVerdict.ACCOUNT,
    413: UpstreamVerdict.CANDIDATE,
    415: UpstreamVerdict.CANDIDATE,
    425: UpstreamVerdict.BROKEN,
    429: UpstreamVerdict.RATE_LIMITED,
    431: UpstreamVerdict.CANDIDATE,
    498: UpstreamVerdict.BUSY,  # Groq: the capacity of its flex tier is used up
    503: UpstreamVerdict.BUSY,
    504: UpstreamVerdict.TIMED_OUT,
    524: UpstreamVerdict.TIMED_OUT,  # Cloudflare: the server did not answer in time
    529: UpstreamVerdict.BUSY,
}


def verdict_of(error: UpstreamError) -> UpstreamVerdict:
    """What `error` is about."""
    sign = sign_of(error)
    if sign is not None:
        return sign.about
    default = UpstreamVerdict.REQUEST if 400 <= error.status < 500 else UpstreamVerdict.BROKEN
    return _BY_STATUS.get(error.status, default)


def sign_of(error: UpstreamError) -> Sign | None:
    """The row of SIGNS that decides on `error`, if any does."""
    codes = {_word(text) for text in (error.code, error.type, error.inner_code) if text}
    for sign in SIGNS:
        if error.status in sign.statuses and (
            sign.code in codes if sign.says is None else sign.says.search(error.message)
        ):
            return sign
    return None


# --- errors in place of an answer, under status 200 ---

# By code or type, spelled as in SIGNS: which status it would have been.
_STATUS_OF = {
    "invalidrequesterror": 400,
    "badrequesterror": 400,
    "invalidargument": 400,
    "validationerror": 400,
    "contextlengthexceeded": 400,
    "contentfilter": 400,
    "authenticationerror": 401,
    "invalidapikey": 401,
    "billingerror": 402,
    "permissionerror": 403,
    "permissiondeniederror": 403,
    "notfounderror": 404,
    "modelnotfound": 404,
    "ratelimiterror": 429,
    "ratelimitexceeded": 429,
    "insufficientquota": 429,
    "resourceexhausted": 429,
    "overloadederror": 529,
    "serviceunavailableerror": 503,
    "unavailable": 503,
    "timeouterror": 504,
    "deadlineexceeded": 504,
}


def error_within(body: bytes, secrets: Sequence[str] = ()) -> UpstreamError:
    """The error that `body` has in place of an answer, with the status that it would have been."""
    error = read_error(200, body, secrets)
    message = error.message if error.said else "The upstream sent an error in place of an answer."
    return msgspec.structs.replace(error, status=_status_within(error), message=message)


def _status_within(error: UpstreamError) -> int:
    for text in (error.code, error.type, error.inner_code):
        if text is None:
            continue
        if len(text) == 3 and text.isdecimal() and 400 <= int(text) < 600:
            return int(text)
        if (status := _STATUS_OF.get(_word(text))) is not None:
            return status
    return 500


def is_error(body: bytes) -> bool:
    """True for an object that is an error, without a member of that name: it says so, or only complains."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return False
    if not isinstance(document, dict):
        return False
    if document.get("object") == "error" or document.get("type") == "error":
        return True
    complaints = (document.get(name) for name in ("detail", "message", "msg", "errors"))
    is_answer = "choices" in document or "data" in document
    return not is_answer and any(isinstance(said, str | list) and said for said in complaints)


def _word(text: str) -> str:
    return "".join(filter(str.isalnum, text)).lower()
