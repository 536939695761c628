"""The SQL that keeps the rollups: sums for each quarter of an hour and UTC day, in the rows' own transaction.

Both databases add up in their own code, outside the interpreter lock. `fresh` is what holds the new rows, a
table or a subquery. No text from outside is ever part of a statement.

Quarters, because days of every zone in use are sums of them (India is 5:30 away from UTC, Nepal 5:45); UTC
days beside them, because a month of quarters is a hundred times as much to read.
"""

from typing import Literal, NamedTuple

from gateway.ledger.tables import (
    CORRECTION,
    COSTS,
    DAY,
    DIMENSIONS,
    LATE_CORRECTION,
    MONEY,
    QUARTER,
    SUMS,
    TOKENS,
)

Dialect = Literal["sqlite", "postgresql"]
Grain = Literal["quarter", "day"]

# A row that corrects another is neither an attempt nor a request; the first attempt stands for its request,
# so that requests add up to the same total however they are grouped.
IS_ATTEMPT = "corrects IS NULL"
IS_REQUEST = "corrects IS NULL AND attempt_id LIKE '%:1'"

_NAMES = ", ".join(DIMENSIONS)
# Of a row. The prefix, because json_each has a `key` of its own.
_OUTCOME_OF_ROW = (
    f"CASE WHEN s.corrects IS NULL THEN s.outcome WHEN s.occurred_at IS NULL THEN '{CORRECTION}' "
    f"ELSE '{LATE_CORRECTION}' END"
)
_NAMES_OF_ROW = ", ".join(
    f"{_OUTCOME_OF_ROW if name == 'outcome' else f's.{name}'} AS {name}" for name in DIMENSIONS
)
# By position: an alias and a column of one name are not the same to both databases.
_GROUPED = ", ".join(str(number + 1) for number in range(1 + len(DIMENSIONS)))
_GROUP_DIGEST = " || chr(31) || ".join


class Rollup(NamedTuple):
    """A kind of rollup: both its tables begin with `name` and hold `sums` for each of `keys`."""

    name: str
    keys: tuple[str, ...]
    sums: tuple[str, ...]

    @property
    def columns(self) -> str:
        return ", ".join((*self.keys, *self.sums))


USAGE = Rollup("usage", ("starts", "group_id"), SUMS)
COUNTERFACTUAL = Rollup("counterfactual", ("starts", "group_id", "elsewhere"), ("nano_usd",))
UNITS = Rollup("unit", ("starts", "group_id", "unit"), ("amount",))
UNIT_COSTS = Rollup("unit_cost", ("starts", "group_id", "unit"), ("nano_usd",))
ROLLUPS = (USAGE, COUNTERFACTUAL, UNITS, UNIT_COSTS)


class _Map(NamedTuple):
    """A column of rows that holds a JSON object of numbers, {} in most."""

    rollup: Rollup
    column: str


_MAPS = (
    _Map(COUNTERFACTUAL, "counterfactual_nano_usd"),
    _Map(UNITS, "usage"),
    _Map(UNIT_COSTS, "unit_nano_usd"),
)


def keep_rollups_on_postgres(fresh: str) -> tuple[str, ...]:
    """Statements that add the rows of `fresh` to all rollups, in this order."""
    return (
        _groups("postgresql", fresh),
        *(
            f"WITH added AS MATERIALIZED ({added}), "
            f"kept AS ({_upsert(rollup, 'quarter', _ordered('added'))}) "
            + _upsert(rollup, "day", _by_day(rollup, "added"))
            for rollup, added in _added("postgresql", fresh)
        ),
    )


def prepare_sqlite() -> tuple[str, ...]:
    """Statements for a new connection, which then keeps all rollups by the one statement KEEP_ON_SQLITE.

    A trigger on a temporary table: one statement gives the interpreter lock back once. Takes no lock.
    """
    fresh = "(SELECT * FROM usage_record WHERE rowid > NEW.newest)"
    steps = [_groups("sqlite", fresh)]
    tables = ["CREATE TEMPORARY TABLE taken (newest INTEGER)"]
    for rollup, added in _added("sqlite", fresh):
        sums = f"{rollup.name}_added"
        tables.append(f"CREATE TEMPORARY TABLE {sums} ({rollup.columns})")
        steps += [
            f"INSERT INTO {sums} {added}",
            _upsert(rollup, "quarter", _ordered(sums)),
            _upsert(rollup, "day", _by_day(rollup, sums)),
            f"DELETE FROM {sums}",  # noqa: S608
        ]
    steps.append("DELETE FROM taken")
    body = "; ".join(steps)
    return (*tables, f"CREATE TEMPORARY TRIGGER keep_rollups AFTER INSERT ON taken BEGIN {body}; END")


# Its parameter is the greatest rowid from before the new rows.
KEEP_ON_SQLITE = "INSERT INTO taken VALUES (?)"


def rebuild_rollups(dialect: Dialect, since: int | None) -> tuple[str, ...]:
    """Statements that make all rollups anew, but for quarters before `since`, whose rows are gone.

    Days are then the sums of their quarters: the day in which `since` lies has rows for a part of it only.
    """
    kept = "" if since is None else f" WHERE starts >= {since}"
    fresh = "usage_record" if since is None else f"(SELECT * FROM usage_record WHERE at >= {since})"  # noqa: S608
    return (
        *(f"DELETE FROM {rollup.name}_quarter{kept}" for rollup in ROLLUPS),  # noqa: S608
        *(f"DELETE FROM {rollup.name}_day" for rollup in ROLLUPS),  # noqa: S608
        _groups(dialect, fresh),
        *(_upsert(rollup, "quarter", added) for rollup, added in _added(dialect, fresh)),
        *(_upsert(rollup, "day", _by_day(rollup, f"{rollup.name}_quarter")) for rollup in ROLLUPS),
    )


def _groups(dialect: Dialect, fresh: str) -> str:
    # Only what is new is tried: an insertion that conflicts would still take a number.
    return (
        f"INSERT INTO usage_group ({_NAMES}) SELECT {_NAMES} "  # noqa: S608
        f"FROM (SELECT DISTINCT {_NAMES_OF_ROW} FROM {fresh} AS s) AS r "
        f"WHERE NOT EXISTS (SELECT 1 FROM usage_group g WHERE {_same_group(dialect)}) "
        "ON CONFLICT DO NOTHING"
    )


def _added(dialect: Dialect, fresh: str) -> tuple[tuple[Rollup, str], ...]:
    """What the rows of `fresh` add to each quarter, as a query for each kind of rollup."""
    return (USAGE, _usage(dialect, fresh)), *((one.rollup, _entries_of(dialect, fresh, one)) for one in _MAPS)


def _usage(dialect: Dialect, fresh: str) -> str:
    sums = {
        "attempts": f"CASE WHEN {IS_ATTEMPT} THEN 1 ELSE 0 END",
        "requests": f"CASE WHEN {IS_REQUEST} THEN 1 ELSE 0 END",
        "estimated_attempts": f"CASE WHEN {IS_ATTEMPT} AND CAST(estimated AS INTEGER) = 1 THEN 1 ELSE 0 END",
    } | {name: name for name in (*TOKENS, *MONEY, *COSTS)}
    added_up = ", ".join(f"{_sum(sums[name])} AS {name}" for name in SUMS)
    return (
        f"SELECT starts, g.id AS group_id, {', '.join(SUMS)} "  # noqa: S608
        f"FROM (SELECT {_starts('s.at', QUARTER)} AS starts, {_NAMES_OF_ROW}, {added_up} FROM {fresh} AS s "
        f"GROUP BY {_GROUPED}) AS r JOIN usage_group g ON {_same_group(dialect)} WHERE true ORDER BY 1, 2"
    )


def _entries_of(dialect: Dialect, fresh: str, one: _Map) -> str:
    key, (amount,) = one.rollup.keys[-1], one.rollup.sums
    return (
        f"SELECT starts, g.id AS group_id, {key}, {amount} "  # noqa: S608
        f"FROM (SELECT {_starts('s.at', QUARTER)} AS starts, {_NAMES_OF_ROW}, o.key AS {key}, "
        f"{_sum(_number(dialect))} AS {amount} FROM {fresh} AS s "
        f"CROSS JOIN {_entries(dialect, one.column)} AS o WHERE s.{one.column} <> '{{}}' "
        f"GROUP BY {_GROUPED}, o.key) AS r JOIN usage_group g ON {_same_group(dialect)} "
        "WHERE true ORDER BY 1, 2, 3"
    )


def _ordered(source: str) -> str:
    # In the order of the key: two writers that lock the same rows in one order cannot wait for each other.
    return f"SELECT * FROM {source} WHERE true ORDER BY 1, 2, 3"  # noqa: S608


def _by_day(rollup: Rollup, source: str) -> str:
    others = ", ".join(rollup.keys[1:])
    return (
        f"SELECT {_starts('s.starts', DAY)}, {others}, {', '.join(_sum(name) for name in rollup.sums)} "  # noqa: S608
        f"FROM {source} AS s GROUP BY 1, {others} ORDER BY 1, {others}"
    )


def _upsert(rollup: Rollup, grain: Grain, query: str) -> str:
    table = f"{rollup.name}_{grain}"
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in rollup.sums)
    return (
        f"INSERT INTO {table} ({rollup.columns}) {query} "
        f"ON CONFLICT ({', '.join(rollup.keys)}) DO UPDATE SET {added}"
    )


def _starts(at: str, length: int) -> str:
    # The remainder has the sign of the dividend: without the addition, times before 1970 would round up.
    return f"{at} - (({at} % {length}) + {length}) % {length}"


def _sum(expression: str) -> str:
    return f"CAST(sum({expression}) AS BIGINT)"  # PostgreSQL adds integers up as numeric


def _number(dialect: Dialect) -> str:
    return "o.value" if dialect == "sqlite" else "CAST(o.value AS BIGINT)"


def _entries(dialect: Dialect, column: str) -> str:
    if dialect == "sqlite":
        return f"json_each(s.{column})"
    return f"json_each_text(CAST(s.{column} AS JSON))"


def _same_group(dialect: Dialect) -> str:
    same = " AND ".join(f"g.{name} = r.{name}" for name in DIMENSIONS)
    if dialect == "sqlite":
        return same
    # The index on PostgreSQL holds a digest of the names; the names themselves decide.
    digest_of_group, digest_of_row = (
        f"md5({_GROUP_DIGEST(f'{side}.{name}' for name in DIMENSIONS)})" for side in "gr"
    )
    return f"{digest_of_group} = {digest_of_row} AND {same}"
