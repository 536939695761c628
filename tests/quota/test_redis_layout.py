"""What Python packs and Lua unpacks is declared once: each side is checked against the declaration."""

import asyncio
import contextlib
import inspect
import re
from importlib import resources
from typing import Any

import msgspec
import pytest
import redis

from gateway.quota.redis.layout import ARGUMENTS, KEYS, ROWS, STORED, HoldRow, TakenRow, WindowRow
from gateway.quota.redis.replies import REPLIES, REPLY_ROWS
from gateway.quota.redis.scripts import Scripts, filled, positions
from gateway.quota.redis.server_clock import ServerClock
from gateway.quota.redis.specs import QuotaSpec
from gateway.quota.redis.store import CounterStore
from tests.core.builders import ToldClock

LUA = {
    item.name: item.read_text("utf-8")
    for item in (resources.files("gateway.quota.redis") / "lua").iterdir()
    if item.name.endswith(".lua")
}
NAMED = {**ROWS, **REPLY_ROWS}


@pytest.fixture
def server(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as client:
        yield client


# --- the Lua files use the declaration, and all of it ---


@pytest.mark.parametrize("name", LUA)
def test_no_lua_file_has_a_position_without_a_name(name: str) -> None:
    code = re.sub(r"--.*", "", LUA[name])
    assert re.findall(r"\w\[\s*-?\d+\s*\]", code) == []


@pytest.mark.parametrize("name", ["LIMIT.scop", "LIMITS.scope", "STALE.limit", "ADMIT.asks"])
def test_a_name_that_is_not_declared_fails_before_anything_is_loaded(name: str) -> None:
    with pytest.raises(ValueError, match=re.escape(name)):
        filled(f"local value = row[{name}]")


def test_names_in_capitals_never_mean_two_things() -> None:
    names = [*STORED, *(call.upper() for call in ARGUMENTS), *NAMED, *REPLIES, "KEY", "LIMIT_KIND"]
    assert len(names) == len(set(names)) == len(positions())


@pytest.mark.parametrize("name", sorted(positions()))
def test_lua_uses_every_field_that_is_declared(name: str) -> None:
    used = set(re.findall(rf"(?<![\w.]){name}\.(\w+)", "\n".join(LUA.values())))
    unused = set(positions()[name]) - used
    assert unused == set()


def test_every_function_is_registered_and_has_a_typed_call() -> None:
    assert set(Scripts().functions) == set(ARGUMENTS)
    assert [call for call in ARGUMENTS if not hasattr(CounterStore, call)] == []


# --- both sides mean the same ---


@pytest.mark.parametrize("name", NAMED)
def test_lua_reads_by_name_what_python_packs_in_order(server: Any, name: str) -> None:
    fields = NAMED[name].__struct_fields__
    row = {field: f"value of {field}" for field in fields}
    named = ", ".join(f"{field} = row[{name}.{field}]" for field in fields)
    script = filled(f"local row = cmsgpack.unpack(ARGV[1]); return cmsgpack.pack({{{named}}})")
    read = server.eval(script, 0, msgspec.msgpack.encode(NAMED[name](**row)))
    assert msgspec.msgpack.decode(read) == row


@pytest.mark.parametrize("name", REPLIES)
def test_python_reads_in_order_what_lua_packs_by_name(server: Any, name: str) -> None:
    reply = REPLIES[name]
    fields = reply.__struct_fields__
    named = "".join(f", [{name}.{field}] = {number}" for number, field in enumerate(fields))
    packed = server.eval(filled(f"return cmsgpack.pack({{{name}.tag{named}}})"), 0)
    tag, *values = msgspec.msgpack.decode(packed)
    assert tag == reply.__struct_config__.tag
    assert values == list(range(len(fields)))


class RecordingClient:
    """Keeps what was sent and never answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *sent: Any) -> "asyncio.Future[Any]":
        self.sent.append(sent)
        return asyncio.get_running_loop().create_future()


SPEC = QuotaSpec(b"<spec>", None, (), (), 0.0, 1.0)
# By parameter: what is given, and the argument that it becomes.
SPECIAL: dict[str, tuple[Any, bytes]] = {
    "spec": (SPEC, b"<spec>"),
    "ready": (True, b"1"),
    "seconds": (6.5, b"7"),
    "holds": (["h"], msgspec.msgpack.encode(["h"])),
    "rows": (["r"], msgspec.msgpack.encode(["r"])),
    "settlements": (["s"], msgspec.msgpack.encode(["s"])),
    "wanted": (["w"], msgspec.msgpack.encode(["w"])),
}


def value_for(parameter: inspect.Parameter, number: int) -> tuple[Any, bytes]:
    if parameter.name in SPECIAL:
        return SPECIAL[parameter.name]
    if parameter.annotation is int:
        return 1_000 + number, b"%d" % (1_000 + number)
    text = f"<{parameter.name}>"
    return (text, text.encode()) if parameter.annotation is str else (text.encode(), text.encode())


@pytest.mark.parametrize("call", ARGUMENTS)
def test_typed_calls_send_the_declared_arguments_in_order(call: str) -> None:
    async def scenario() -> None:
        client = RecordingClient()
        store = CounterStore(client, ServerClock(ToldClock()))  # type: ignore[arg-type]
        parameters = inspect.signature(getattr(store, call)).parameters.values()
        given = {item.name: value_for(item, number) for number, item in enumerate(parameters)}
        assert tuple(given) == ARGUMENTS[call]
        values = {name: value for name, (value, _) in given.items()}
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(getattr(store, call)(**values), 0.01)
        assert client.sent == [(call, *(argument for _, argument in given.values()))]

    asyncio.run(scenario())


# --- what is stored keeps its layout, because old and new gateways share it during an upgrade ---


def test_keys_and_stored_holds_are_those_of_release_0_1() -> None:
    assert KEYS == ("state", "holds", "due", "presumed", "worker:", "slots:", "alive", "claim:", "ready")
    hold = HoldRow(7, 11, [WindowRow("org:acme|day", 13, 0)], ["key:k"], [TakenRow("key:k", 60, 17)], 3)
    added = [0]  # at the end of a row, where older gateways do not look
    stored = [7, 11, [["org:acme|day", 13, 0]], ["key:k"], [["key:k", 60, 17, *added]], 3]
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(hold)) == stored


def test_a_stored_hold_without_a_number_of_slots_has_one_in_each_scope() -> None:
    packed = msgspec.msgpack.encode([7, 11, [], ["key:k"], []])
    assert msgspec.msgpack.decode(packed, type=HoldRow).slots == 1
