"""The kinds of value that a setting can have: how each is written, and what is said when it is not.

A YAML scalar arrives here as the text that stands in the file (after `${VAR}`), so the schema and not YAML
decides what it means: `on` is a name where a name is expected, and `2.50` is exactly two and a half dollars.

Messages never quote the value: it may come from the environment. What quotes it goes into `aside`, which is
shown only for values that stand literally in the file.
"""

import datetime
import difflib
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Final
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, SecretStr, WithJsonSchema
from pydantic import model_validator as _model_validator
from pydantic_core import PydanticCustomError


class Blank:
    """An empty value in the file (`token:` with nothing behind it, `null` or `~`)."""

    def __repr__(self) -> str:
        return "(empty)"


BLANK: Final = Blank()
PLAIN: Final = "plain"  # the error type of messages that are already in plain words

MAX_NAME_CHARS: Final = 128
MAX_NUMBER_CHARS: Final = 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
_NUMBER = re.compile(r"[+-]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
VISIBLE_ASCII = re.compile(r"[\x21-\x7e]+")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def refusal(message: str, aside: str = "") -> PydanticCustomError:
    """An error in plain words. `aside` may quote the value; it is left out for values of the environment."""
    return PydanticCustomError(PLAIN, "{message}", {"message": message, "aside": aside})


class Section(BaseModel):
    """A mapping of the file with a fixed set of keys. An empty section is one with nothing set."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    @_model_validator(mode="before")
    @classmethod
    def _nothing_set(cls, value: object) -> object:
        return {} if isinstance(value, Blank) else value


def _empty_mapping(value: object) -> object:
    return {} if isinstance(value, Blank) else value


AllowBlank = BeforeValidator(_empty_mapping)


# --- text ---------------------------------------------------------------------------------------------


def nonempty(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise refusal("must not be empty")
    return value


def _name(value: str) -> str:
    if len(value) > MAX_NAME_CHARS or not _NAME.fullmatch(value):
        raise refusal(
            f"is not a usable name: take up to {MAX_NAME_CHARS} letters, digits and . _ - : / @ +, "
            "beginning with a letter or a digit"
        )
    return value


def _secret(value: object) -> object:
    shown = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(shown, str):
        if not shown:
            raise refusal("must not be empty")
        # A trailing newline from `$(cat file)` would end the header early, or never match.
        if not VISIBLE_ASCII.fullmatch(shown):
            raise refusal("must be ASCII without spaces or line ends, because it travels in a header")
    return value


def _header_value(value: object) -> object:
    if isinstance(value, str) and not _HEADER_VALUE.fullmatch(value):
        raise refusal("must be printable ASCII without spaces at its ends")
    return value


# What the client writes by itself, or what would break the framing of a request.
_FRAMING_HEADERS: Final = frozenset(
    {
        *("host", "expect", "te", "trailer", "upgrade", "content-length", "content-type"),
        *("content-encoding", "accept-encoding", "transfer-encoding", "connection", "keep-alive"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection"),
    }
)
_CREDENTIAL_HEADERS: Final = frozenset({"authorization", "api-key", "cookie"})


def _any_header_name(value: str) -> str:
    if not _HEADER_NAME.fullmatch(value):
        raise refusal("is not a header name")
    if value.lower() in _FRAMING_HEADERS:
        raise refusal("may not be set here: the gateway sets or removes this header itself")
    return value.lower()


def _header_name(value: str) -> str:
    name = _any_header_name(value)
    if name in _CREDENTIAL_HEADERS or name.startswith("x-tollway-"):
        raise refusal("may not be set here: the gateway sets or removes this header itself")
    return name


Text = Annotated[str, BeforeValidator(nonempty)]
Name = Annotated[str, BeforeValidator(nonempty), AfterValidator(_name)]
Secret = Annotated[SecretStr, BeforeValidator(_secret)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
AnyHeaderName = Annotated[str, AfterValidator(_any_header_name)]  # credentials too
HeaderValue = Annotated[SecretStr, BeforeValidator(_header_value)]
FilePath = Annotated[Path, BeforeValidator(nonempty)]


# --- numbers, flags, dates ------------------------------------------------------------------------------


def exact_number(value: object) -> Decimal | None:
    """The exact number that `value` writes, or None. Floats are refused: they cannot hold a cent exactly."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    text = str(value)
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    try:
        number = Decimal(text.replace("_", ""))
    except InvalidOperation:
        return None
    # Bounds the exponent: int(Decimal("1e999")) would build the digits.
    return number if number.is_finite() and abs(number.adjusted()) <= MAX_NUMBER_CHARS else None


def _whole(least: int, most: int, what: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        number = exact_number(value)
        if number is None or number != number.to_integral_value():
            raise refusal(f"must be {what}")
        return int(_within(number, Decimal(least), Decimal(most)))

    return parse


def _within(number: Decimal, least: Decimal, most: Decimal) -> Decimal:
    if number < least:
        raise refusal(f"must be >= {least}")
    if number > most:
        raise refusal(f"must be <= {most:,}")
    return number


def _amount(*, positive: bool, digits: int, what: str) -> Callable[[object], Decimal]:
    def parse(value: object) -> Decimal:
        number = exact_number(value)
        if number is None:
            raise refusal(f"must be {what}")
        if positive and number <= 0:
            raise refusal("must be > 0")
        exponent = number.normalize().as_tuple().exponent
        if isinstance(exponent, int) and -exponent > digits:
            raise refusal(f"must have at most {digits} digits behind the point")
        return _within(number, Decimal(0), Decimal(10**12))

    return parse


def _probability(value: object) -> Decimal:
    number = exact_number(value)
    if number is None:
        raise refusal("must be a number from 0 to 1")
    return _within(number, Decimal(0), Decimal(1))


def _seconds(value: object) -> float:
    number = Decimal(str(value)) if isinstance(value, float) else exact_number(value)
    if number is None or not number.is_finite():
        raise refusal("must be a number of seconds such as 5 or 0.5")
    if number <= 0:
        raise refusal("must be > 0")
    return float(_within(number, Decimal(0), Decimal(86_400)))


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return value == "true"
    raise refusal("must be true or false")


def _date(value: object) -> datetime.date:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value, re.ASCII):
        try:
            return datetime.date.fromisoformat(value)
        except ValueError:
            raise refusal("is no day of the calendar") from None
    raise refusal("must be a date written as 2027-01-14")


def _local_time(value: object) -> datetime.datetime:
    if isinstance(value, datetime.datetime) and value.tzinfo is None:
        return value
    if isinstance(value, str) and re.fullmatch(
        r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2})?)?", value, re.ASCII
    ):
        try:
            return datetime.datetime.fromisoformat(value)
        except ValueError:
            raise refusal("is no moment of the calendar") from None
    raise refusal("must be a time written as 2027-01-14 18:30")


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ValueError, OSError, KeyError):  # KeyError: ZoneInfoNotFoundError
        near = _near_zone(value)
        aside = f"did you mean {near}?" if near else ""
        raise refusal("must be an IANA time zone such as Asia/Tokyo or America/New_York", aside) from None
    return value


def _near_zone(text: str) -> str | None:
    """The time zone whose name, or last part of a name, is next to `text`."""
    by_name = {name.lower(): name for name in sorted(available_timezones())}
    by_city = {name.rpartition("/")[2].lower(): name for name in by_name.values()}
    for known in (by_name, by_city):
        if near := difflib.get_close_matches(text.lower().replace(" ", "_"), known, n=1, cutoff=0.8):
            return known[near[0]]
    return None


def _number_schema(**extra: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "number", **extra})


Count = Annotated[int, BeforeValidator(_whole(1, 10**15, "a whole number"))]
ValueCount = Annotated[int, BeforeValidator(_whole(20_000, 10**15, "a whole number"))]
Percent = Annotated[int, BeforeValidator(_whole(1, 1000, "a whole number of per cent"))]
PortNumber = Annotated[int, BeforeValidator(_whole(0, 65_535, "a port number"))]
RemotePort = Annotated[int, BeforeValidator(_whole(1, 65_535, "a port number"))]
usd_amount = _amount(positive=False, digits=12, what="an amount in USD such as 2.50")
Usd = Annotated[
    Decimal,
    BeforeValidator(usd_amount),
    _number_schema(minimum=0),
]
# Budgets and holds are integers of 10**-9 USD, so a budget with more digits could not be kept exactly.
BudgetUsd = Annotated[
    Decimal,
    BeforeValidator(_amount(positive=True, digits=9, what="an amount in USD such as 20000")),
    _number_schema(exclusiveMinimum=0),
]
Amount = Annotated[
    Decimal,
    BeforeValidator(_amount(positive=True, digits=12, what="a number")),
    _number_schema(exclusiveMinimum=0),
]
Share = Annotated[
    Decimal, BeforeValidator(_amount(positive=False, digits=12, what="a number")), _number_schema(minimum=0)
]
Probability = Annotated[
    Decimal,
    BeforeValidator(_probability),
    _number_schema(minimum=0, maximum=1),
]
Seconds = Annotated[float, BeforeValidator(_seconds), _number_schema(exclusiveMinimum=0)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Date = Annotated[datetime.date, BeforeValidator(_date)]
LocalTime = Annotated[datetime.datetime, BeforeValidator(_local_time)]
TimeZone = Annotated[str, BeforeValidator(nonempty), AfterValidator(_time_zone)]
