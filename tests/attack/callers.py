"""A clever insider: control headers, guessed keys, hidden text, disguised media, floods of refusals."""

import base64
import html
import json
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator

from tests.attack.case import Case, Failed, Json, Victim, expect
from tests.e2e.harness import PNG_URL, escaped, full_width, in_base64

HEADER = "x-tollway-privacy"


# --- control headers ---


def _raised(*headers: tuple[str, str]) -> Callable[[Victim], Awaitable[None]]:
    """A request that somewhere says `confidential` is refused or stays inside."""

    async def run(victim: Victim) -> None:
        answer = await victim.post(victim.chat(model="auto"), *headers)
        zone = answer.headers.get("x-tollway-zone")
        expect(answer.status_code in (400, 403) or zone == "local", f"{answer.status_code}, zone {zone}")

    return run


def _refused(*headers: tuple[str, str]) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        answer = await victim.post(victim.chat(), *headers)
        expect(answer.status_code in (400, 401, 403), f"answered with {answer.status_code}")

    return run


def _control_headers() -> Iterator[Case]:
    section = "control headers"
    spelled = (HEADER, "X-Tollway-Privacy", "X-TOLLWAY-PRIVACY")
    for first in spelled:
        for second in spelled:
            for values in (("public", "confidential"), ("confidential", "public")):
                name = f"{first}: {values[0]}, {second}: {values[1]}"
                yield Case(section, name, _raised((first, values[0]), (second, values[1])))
    for value in ("public,confidential", "confidential, public", "Confidential", "CONFIDENTIAL"):
        yield Case(section, f"{HEADER}: {value!r}", _raised((HEADER, value)))
    for name, value in (
        ("x-tollway-feature", "search"),
        ("x-tollway-session", "a"),
        ("x-tollway-tags", "a=b"),
        ("authorization", "Bearer other"),
    ):
        yield Case(section, f"{name} twice", _refused((name, value), (name, "z=z")))
    yield Case(section, "a feature of somebody else", _refused(("x-tollway-feature", "payroll")))
    for name in ("idempotency-key", "tracestate", "baggage", "x-custom", "openai-organization", "user-agent"):
        yield Case(section, f"{name} with a card's number", _leaves_no_text(name), needs_own=True)


def _leaves_no_text(header: str) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        assert victim.own is not None
        before = len(victim.own.external.attempts())
        parent = ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        await victim.post(victim.chat(), (header, VALUES["card"]), parent)
        for attempt in victim.own.external.attempts()[before:]:
            named = [name for name, value in attempt.headers.items() if VALUES["card"] in value]
            expect(not named, f"it left as {named}")

    return run


# --- keys ---

_GUESSES = (
    *(
        "' OR '1'='1",
        "x'; DROP TABLE usage_record; --",
        "\\x00",
        "null",
        "undefined",
        "*",
        "../../etc/passwd",
    ),
    *("A" * 8000, "é" * 50, "${APP_KEY}", "key-of-the-app-012345678", "KEY-OF-THE-APP-0123456789"),
    *(" key-of-the-app-0123456789x", "key-of-the-app-0123456789\tx"),
)


def _guess(secret: str) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        header = b"Bearer " + secret.encode()
        answer = await victim.http.post(
            f"{victim.data_url}/v1/chat/completions", json=victim.chat(), headers=[(b"authorization", header)]
        )
        expect(answer.status_code in (400, 401, 429), f"answered with {answer.status_code}")

    return run


async def _many_guesses(victim: Victim) -> None:
    """Guessing ends in refusals or delays, and whoever has a right key is still served."""
    statuses, times = [], []
    for number in range(300):
        began = time.monotonic()
        answer = await victim.post(victim.chat(), key=f"guess-{number:020}")
        times.append(time.monotonic() - began)
        statuses.append(answer.status_code)
    right = await victim.post(victim.chat())
    expect(right.status_code in (200, 429), f"a right key gets {right.status_code} now")
    is_slowed = sum(times[-50:]) > 5 * sum(times[:50])
    expect(429 in statuses or is_slowed, "300 wrong keys were answered as fast as the first")


def _keys() -> Iterator[Case]:
    for secret in _GUESSES:
        yield Case("keys", f"guess {secret[:30]!r}", _guess(secret))
    yield Case("keys", "300 guesses in a row", _many_guesses)


# --- hidden text ---

VALUES = {
    "card": "4111 1111 1111 1111",
    "email": "ada.lovelace@analytical-engines.co.uk",
    "iban": "DE89 3704 0044 0532 0130 00",
    "ssn": "536-22-8726",
    "secret": "AKIAQ3EGRL5XZ7TUV2WS",
}
ZERO_WIDTH = "\u200b"

DISGUISES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "full width": full_width,
    "HTML entities": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "padded HTML entities": lambda text: "".join(f"&#x{ord(char):08x};" for char in text),
    "HTML names": lambda text: html.escape(text).replace("@", "&commat;").replace("-", "&hyphen;"),
    "percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent twice": lambda text: "".join(f"%25{byte:02X}" for byte in text.encode()),
    "query": urllib.parse.quote_plus,
    "\\x escapes": lambda text: "".join(f"\\x{ord(char):02x}" for char in text),
    "\\u escapes": escaped,
    "\\u escapes twice": lambda text: escaped(text).replace("\\", "\\\\"),
    "zero width": ZERO_WIDTH.join,
    "Hangul filler": "\u3164".join,
    "Braille blank": "\u2800".join,
    "soft hyphens": "\u00ad".join,
    "no-break spaces": lambda text: text.replace(" ", "\u00a0"),
    "tabs": lambda text: text.replace(" ", "\t"),
    "lines": lambda text: text.replace(" ", "\n"),
    "commas": lambda text: text.replace(" ", ", "),
    "base64": in_base64,
    "base64 twice": lambda text: in_base64(in_base64(text)),
    "JSON in a string": lambda text: json.dumps({"value": text}),
}


def _stays_inside(body: Callable[[Victim], Json]) -> Callable[[Victim], Awaitable[None]]:
    async def run(victim: Victim) -> None:
        answer = await victim.post_in_turn({**body(victim), "model": "auto"})
        zone = answer.headers.get("x-tollway-zone")
        expect(answer.status_code < 500, f"answered with {answer.status_code}")
        expect(zone in (None, "local"), f"it went to zone {zone}")
        # `auto` may prefer what is local: asked for by name, it has to be refused.
        only_external = await victim.post_in_turn({**body(victim), "model": victim.model})
        expect(
            only_external.status_code in (400, 403),
            f"{victim.model}: answered with {only_external.status_code}",
        )

    return run


def _said(text: str) -> Callable[[Victim], Json]:
    return lambda victim: victim.chat(f"Please note {text} for later.")


def _hidden_text() -> Iterator[Case]:
    for kind, value in VALUES.items():
        for disguise, hide in DISGUISES.items():
            yield Case("hidden text", f"{kind}: {disguise}", _stays_inside(_said(hide(value))))
        half = len(value) // 2
        for place, body in {
            "in two parts": lambda victim, a=value[:half], b=value[half:]: {
                **victim.chat(),
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": a}, {"type": "text", "text": b}]}
                ],
            },
            "as a tool's argument": lambda victim, v=value: victim.chat(
                messages=[
                    {"role": "user", "content": "a"},
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "1",
                                "type": "function",
                                "function": {"name": "f", "arguments": json.dumps({"a": v})},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "b"},
                ]
            ),
            "in a tool's description": lambda victim, v=value: victim.chat(
                tools=[{"type": "function", "function": {"name": "f", "description": v, "parameters": {}}}]
            ),
            "in an unknown member": lambda victim, v=value: victim.chat(notes={"deep": [{"er": v}]}),
            "as a member's name": lambda victim, v=value: victim.chat(notes={v: 1}),
            "in the user": lambda victim, v=value: victim.chat(user=v),
            "in metadata": lambda victim, v=value: victim.chat(metadata={"a": v}),
            "in a stop word": lambda victim, v=value: victim.chat(stop=[v]),
        }.items():
            yield Case("hidden text", f"{kind}: {place}", _stays_inside(body))
    for name, number in {"an integer": 4111111111111111, "a float": 4111111111111111.0}.items():
        for place in ("seed", "notes"):
            yield Case(
                "hidden text",
                f"card: {name} as {place}",
                _stays_inside(lambda victim, p=place, n=number: victim.chat("My card is there.", **{p: n})),
            )


# --- disguised media ---

_CARD = base64.b64encode(VALUES["card"].encode()).decode()
_SVG = base64.b64encode(f"<svg><text>{VALUES['card']}</text></svg>".encode()).decode()

PARTS: dict[str, Json] = {
    "text behind base64,": {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{VALUES['card']}"},
    },
    "text in base64 as PNG": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_CARD}"}},
    "data:text/plain": {"type": "image_url", "image_url": {"url": f"data:text/plain,{VALUES['card']}"}},
    "SVG": {"type": "image_url", "image_url": {"url": f"data:image/svg+xml;base64,{_SVG}"}},
    "SVG as PNG": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_SVG}"}},
    "a file beside the image": {
        "type": "image_url",
        "image_url": {"url": PNG_URL},
        "file": {"file_data": f"data:text/plain;base64,{_CARD}"},
    },
    "audio beside the image": {
        "type": "image_url",
        "image_url": {"url": PNG_URL},
        "input_audio": {"data": _CARD, "format": "wav"},
    },
    "text beside the image": {"type": "image_url", "image_url": {"url": PNG_URL}, "text": VALUES["card"]},
    "text in the image's detail": {
        "type": "image_url",
        "image_url": {"url": PNG_URL, "detail": VALUES["card"]},
    },
    "a file": {"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{_CARD}"}},
    "an unknown type": {"type": "hologram", "hologram": {"data": _CARD}},
}


def _media() -> Iterator[Case]:
    for name, part in PARTS.items():
        yield Case(
            "disguised media",
            name,
            _stays_inside(
                lambda victim, p=part: {**victim.chat(), "messages": [{"role": "user", "content": [p]}]}
            ),
        )


# --- floods ---


async def _privacy_refusals(victim: Victim) -> None:
    body = victim.chat(f"card {VALUES['card']}")
    statuses = [(await victim.post(body)).status_code for _ in range(400)]
    if 429 not in statuses:
        raise Failed("400 refusals by privacy were answered, none of them with 429")


CASES = [*_control_headers(), *_hidden_text(), *_media()]
# What they set off may bar this address and this key for a while.
FLOODS = [*_keys(), Case("refusal floods", "400 refusals by privacy of one key", _privacy_refusals)]
