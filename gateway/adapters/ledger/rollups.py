"""The SQL that keeps the rollups: sums for each quarter of an hour and UTC day, in the rows' own transaction.

Both databases add up in their own code, outside the interpreter lock. `fresh` names what holds the new rows:
a subquery on SQLite, the staging table on PostgreSQL.

Quarters, because days of every zone in use are sums of them (India is 5:30 away from UTC, Nepal 5:45); UTC
days beside them, because a month of quarters is a hundred times as much to read.
"""

from typing import Literal

from gateway.adapters.ledger.tables import DAY, DIMENSIONS, QUARTER, SUMS, TOKENS

Dialect = Literal["sqlite", "postgresql"]
Grain = Literal["quarter", "day"]

GRAINS: tuple[tuple[Grain, int], ...] = (("quarter", QUARTER), ("day", DAY))
TABLES = ("usage_quarter", "usage_day", "counterfactual_quarter", "counterfactual_day")

# A row that corrects another is neither an attempt nor a request; the first attempt stands for its request,
# so that requests add up to the same total however they are grouped.
IS_ATTEMPT = "corrects IS NULL"
IS_REQUEST = "corrects IS NULL AND attempt_id LIKE '%:1'"

_NAMES = ", ".join(DIMENSIONS)
_NAMES_OF_ROW = ", ".join(f"s.{name}" for name in DIMENSIONS)  # json_each has a `key` of its own
_GROUP_DIGEST = " || chr(31) || ".join


def keep_rollups(dialect: Dialect, fresh: str) -> tuple[str, ...]:
    """Statements that add the rows of `fresh` to all rollups, in this order."""
    grains = [_add(dialect, fresh, grain, length) for grain, length in GRAINS]
    others = [_add_counterfactuals(dialect, fresh, grain, length) for grain, length in GRAINS]
    return (_groups(dialect, fresh), *grains, *others)


def rebuild_rollups(dialect: Dialect, since: int | None) -> tuple[str, ...]:
    """Statements that make all rollups anew, but for quarters before `since`, whose rows are gone.

    Days are then the sums of their quarters: the day in which `since` lies has rows for a part of it only.
    """
    kept = "" if since is None else f" WHERE starts >= {since}"
    fresh = "usage_record" if since is None else f"(SELECT * FROM usage_record WHERE at >= {since})"  # noqa: S608
    return (
        *(f"DELETE FROM {kind}_quarter{kept}" for kind in ("usage", "counterfactual")),  # noqa: S608
        *(f"DELETE FROM {kind}_day" for kind in ("usage", "counterfactual")),  # noqa: S608
        _groups(dialect, fresh),
        _add(dialect, fresh, "quarter", QUARTER),
        _add_counterfactuals(dialect, fresh, "quarter", QUARTER),
        _days_from_quarters("usage", ("group_id",), SUMS),
        _days_from_quarters("counterfactual", ("group_id", "elsewhere"), ("nano_usd",)),
    )


def _days_from_quarters(kind: str, names: tuple[str, ...], sums: tuple[str, ...]) -> str:
    return (
        f"INSERT INTO {kind}_day (starts, {', '.join((*names, *sums))}) "  # noqa: S608
        f"SELECT {_starts(DAY)}, {', '.join(names)}, {', '.join(_sum(name) for name in sums)} "
        f"FROM {kind}_quarter AS s GROUP BY 1, {', '.join(names)}"
    ).replace("s.at", "s.starts")


def _groups(dialect: Dialect, fresh: str) -> str:
    # Only what is new is tried: an insertion that conflicts would still take a number.
    return (
        f"INSERT INTO usage_group ({_NAMES}) SELECT {_NAMES} "  # noqa: S608
        f"FROM (SELECT DISTINCT {_NAMES} FROM {fresh} AS s) AS r "
        f"WHERE NOT EXISTS (SELECT 1 FROM usage_group g WHERE {_same_group(dialect)}) "
        "ON CONFLICT DO NOTHING"
    )


def _add(dialect: Dialect, fresh: str, grain: Grain, length: int) -> str:
    table = f"usage_{grain}"
    added = ", ".join(f"{name} = {table}.{name} + excluded.{name}" for name in SUMS)
    sums = {
        "attempts": f"CASE WHEN {IS_ATTEMPT} THEN 1 ELSE 0 END",
        "requests": f"CASE WHEN {IS_REQUEST} THEN 1 ELSE 0 END",
        "estimated_attempts": f"CASE WHEN {IS_ATTEMPT} AND CAST(estimated AS INTEGER) = 1 THEN 1 ELSE 0 END",
    } | {name: name for name in (*TOKENS, "cost_nano_usd")}
    added_up = ", ".join(f"{_sum(sums[name])} AS {name}" for name in SUMS)
    return (
        f"INSERT INTO {table} (starts, group_id, {', '.join(SUMS)}) "  # noqa: S608
        f"SELECT starts, g.id, {', '.join(SUMS)} "
        f"FROM (SELECT {_starts(length)} AS starts, {_NAMES}, {added_up} FROM {fresh} AS s "
        f"GROUP BY 1, {_NAMES}) AS r JOIN usage_group g ON {_same_group(dialect)} "
        f"WHERE true ORDER BY 1, 2 ON CONFLICT (starts, group_id) DO UPDATE SET {added}"
    )


def _add_counterfactuals(dialect: Dialect, fresh: str, grain: Grain, length: int) -> str:
    table = f"counterfactual_{grain}"
    return (
        f"INSERT INTO {table} (starts, group_id, elsewhere, nano_usd) "  # noqa: S608
        "SELECT starts, g.id, elsewhere, nano_usd "
        f"FROM (SELECT {_starts(length)} AS starts, {_NAMES_OF_ROW}, o.key AS elsewhere, "
        f"{_sum(_number(dialect))} AS nano_usd FROM {fresh} AS s "
        f"CROSS JOIN {_entries(dialect)} AS o WHERE s.counterfactual_nano_usd <> '{{}}' "
        f"GROUP BY 1, {_NAMES_OF_ROW}, o.key) AS r JOIN usage_group g ON {_same_group(dialect)} "
        "WHERE true ORDER BY 1, 2, 3 ON CONFLICT (starts, group_id, elsewhere) DO UPDATE "
        f"SET nano_usd = {table}.nano_usd + excluded.nano_usd"
    )


def _starts(length: int) -> str:
    # The remainder has the sign of the dividend: without the addition, times before 1970 would round up.
    return f"s.at - ((s.at % {length}) + {length}) % {length}"


def _sum(expression: str) -> str:
    return f"CAST(sum({expression}) AS BIGINT)"  # PostgreSQL adds integers up as numeric


def _number(dialect: Dialect) -> str:
    return "o.value" if dialect == "sqlite" else "CAST(o.value AS BIGINT)"


def _entries(dialect: Dialect) -> str:
    if dialect == "sqlite":
        return "json_each(s.counterfactual_nano_usd)"
    return "json_each_text(CAST(s.counterfactual_nano_usd AS JSON))"


def _same_group(dialect: Dialect) -> str:
    same = " AND ".join(f"g.{name} = r.{name}" for name in DIMENSIONS)
    if dialect == "sqlite":
        return same
    # The index on PostgreSQL holds a digest of the names; the names themselves decide.
    digest_of_group, digest_of_row = (
        f"md5({_GROUP_DIGEST(f'{side}.{name}' for name in DIMENSIONS)})" for side in "gr"
    )
    return f"{digest_of_group} = {digest_of_row} AND {same}"
