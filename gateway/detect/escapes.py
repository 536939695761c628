"""Escapes: what JSON, HTML, addresses of the web and programs write in place of a character.

Time is linear in the text: it is split at its escapes once for each layer, and equal ones are decoded once.
"""

import re
from html.entities import html5

# Each alternative begins with one character, by which the engine skips; of backslashes with the first.
_BACKSLASHES = r"\\(?<!\\\\)\\*+"
_UNIT = rf"{_BACKSLASHES}u[0-9a-fA-F]{{4}}"
_PERCENT_UNIT = "%u[0-9a-fA-F]{4}"
_BYTE = rf"{_BACKSLASHES}x[0-9a-fA-F]{{2}}"
_PERCENT_BYTE = "%(?:25)*[0-9a-fA-F]{2}"
_POINT = rf"{_BACKSLASHES}(?:u\{{[0-9a-fA-F]{{1,6}}\}}|U[0-9a-fA-F]{{8}})"
_AMPERSAND = "&(?:amp;)*"
_ENTITY = rf"{_AMPERSAND}(?:#0*[0-9]{{1,7}};?|#[xX]0*[0-9a-fA-F]{{1,6}};?|[A-Za-z]{{3,31}};)"
# A word that the end of a line breaks.
_BROKEN = r"-(?<=[a-z]-)\r?\n[ \t]{0,24}(?=[a-z])"
_RUNS = (f"{one}(?:{one})*" for one in (_UNIT, _PERCENT_UNIT, _BYTE, _PERCENT_BYTE, _ENTITY))
_ESCAPE = re.compile(f"({'|'.join((*_RUNS, _POINT, _BROKEN))})")

_REPEATED_PERCENT = re.compile("%(?:25)+(?=[0-9a-fA-F]{2})")
_ENTITY_PARTS = re.compile(rf"{_AMPERSAND}(?:#0*([0-9]{{1,7}});?|#[xX]0*([0-9a-fA-F]{{1,6}});?|([A-Za-z]+);)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGHEST = 0x10FFFF

# The layers of one text: an escape may be written in escapes.
MOST_LAYERS = 2

NEEDS_UNESCAPING = (
    r"\\u(?:[0-9a-fA-F]{4}|\{[0-9a-fA-F])|\\x[0-9a-fA-F]{2}|\\U[0-9a-fA-F]{8}|%u?[0-9a-fA-F]{2}|"
    r"&#[xX]?[0-9a-fA-F]|&[A-Za-z]{3,31};|[a-z]-\r?\n[ \t]{0,24}[a-z]"
)


def unescape(text: str) -> str:
    """`text` with its escapes decoded, and theirs: those of JSON, HTML, URLs and string literals.

    Backslashes before an escape go with it. A word is put together that a dash breaks at the end of a line.
    """
    for _ in range(MOST_LAYERS):
        parts = _ESCAPE.split(text)
        if len(parts) == 1:
            break
        known = {escape: _decoded(escape) for escape in set(parts[1::2])}
        parts[1::2] = [known[escape] for escape in parts[1::2]]
        text = _paired("".join(parts))
    return text


def _decoded(run: str) -> str:
    if run[0] == "&":
        entities = _ENTITY_PARTS.findall(run)
        known = {entity: _entity(*entity) for entity in set(entities)}
        return "".join([known[entity] for entity in entities])
    if run[0] == "-":
        return ""
    plain = run.replace("\\", "")
    kind = plain[0] if plain[0] != "%" else plain[:2]
    if kind in {"u", "%u"} and "{" not in plain:
        units = bytes.fromhex(plain.replace("%", "").replace("u", ""))
        return units.decode("utf-16-be", "surrogatepass")
    if kind in {"u", "U"}:
        return _character(int(plain.strip("uU{}"), 16))
    if kind == "x":
        return _text_of(bytes.fromhex(plain.replace("x", "")))
    return _text_of(bytes.fromhex(_REPEATED_PERCENT.sub("%", plain).replace("%", "")))


def _text_of(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _entity(decimal: str, hexadecimal: str, name: str) -> str:
    if name:
        return html5.get(f"{name};", f"&{name};")
    return _character(int(decimal) if decimal else int(hexadecimal, 16))


def _character(point: int) -> str:
    return chr(point) if point <= _HIGHEST else "\ufffd"


def _paired(text: str) -> str:
    """`text` with pairs of surrogates as the characters that they stand for."""
    if _SURROGATE.search(text):
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
