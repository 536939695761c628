"""How many values a JSON text holds, told from its bytes, before anything is built of them.

A value costs from fifty to two hundred bytes of memory and up to a microsecond, whether it is a page of text
or an empty list: three bytes of a text can cost a hundred of memory. Every value but the first one stands
behind a comma or the beginning of its list or object. So these signs bound the number of values, also where
some of them stand in strings; only a text that passes its bound by this count is counted exactly. How deep a
text may be nested is bounded by the parser, which stops while it reads.
"""

from gateway.core.errors import InvalidRequest

# A shorter text has no more than half as many values as bytes.
LIGHT_BYTES = 32 * 1024
# So many values are read and looked through within a few milliseconds.
LIGHT_VALUES = LIGHT_BYTES // 2
# A longer text takes too long to be read and looked through beside other requests, whatever it holds.
HEAVY_BYTES = 1024 * 1024

_SIGNS = b",[{"
_NO_SIGN = bytes(set(range(256)) - set(b',[{"'))


def is_light(text: bytes | bytearray) -> bool:
    """Whether `text` surely is so short, and has so few values, that reading it holds nobody up."""
    size = len(text)
    return size <= LIGHT_BYTES or (size <= HEAVY_BYTES and values_at_most(text) <= LIGHT_VALUES)


def values_at_most(text: bytes | bytearray) -> int:
    """A bound on the values of `text`, in one pass: signs in strings count as well."""
    return 1 + len(text) - len(text.translate(None, _SIGNS))


def has_more_values(text: bytes | bytearray, most: int) -> bool:
    """Whether the JSON `text` holds more than `most` values; of a text that is no JSON, its part that is."""
    if values_at_most(text) <= most:
        return False
    # Without escaped backslashes first, then escaped quotes: each one left begins or ends a string.
    signs = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _NO_SIGN)
    if signs.count(b'"') > 4 * most + 1:
        return True  # each value is one string at most, and the name of a member before it
    return values_at_most(b"".join(signs.split(b'"')[::2])) > most


def check_values(text: bytes | bytearray, most: int) -> None:
    """Raise InvalidRequest when the JSON `text` holds more than `most` values."""
    if has_more_values(text, most):
        raise InvalidRequest(
            f"The JSON body holds more than {most:,} values. Send fewer items in one request.",
            code="too_many_values",
        )
