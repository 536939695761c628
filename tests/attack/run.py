"""Everything that is tried against a gateway, and whether it held.

    make attack                                  against a gateway of its own
    make attack ARGS="--url http://127.0.0.1:8080 --key KEY --model gpt-4o"
    make attack ARGS="--section 'JSON bombs'"

Exit 1 where something did not hold, with a line for each.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from tests.attack import bodies, callers, upstreams, wire
from tests.attack.case import Case, Victim
from tests.attack.stage import PATIENCE_SECONDS, own_gateway

CASES: Sequence[Case] = (*upstreams.CASES, *bodies.CASES, *callers.CASES, *wire.CASES, *callers.FLOODS)
CASE_SECONDS = 180.0
SHOWN = 200


class Result(msgspec.Struct, frozen=True):
    """One case. `failure` says what happened instead of holding."""

    case: Case
    failure: str | None


async def attack(victim: Victim, sections: Sequence[str] = ()) -> list[Result]:
    """Each case that is possible here, one after the other."""
    chosen = [case for case in CASES if not sections or case.section in sections]
    return [Result(case, await _outcome(case, victim)) for case in chosen if case.is_possible(victim)]


async def _outcome(case: Case, victim: Victim) -> str | None:
    try:
        async with asyncio.timeout(CASE_SECONDS):
            await case.run(victim)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:SHOWN]
    return None


def table(results: Sequence[Result]) -> str:
    tried = Counter(result.case.section for result in results)
    held = Counter(result.case.section for result in results if result.failure is None)
    wide = max(map(len, tried), default=0) + 2
    lines = [f"{'section':<{wide}}{'tried':>7}{'held':>7}"]
    lines += [f"{section:<{wide}}{count:>7}{held[section]:>7}" for section, count in tried.items()]
    lines.append(f"{'all':<{wide}}{tried.total():>7}{held.total():>7}")
    failed = [f"{one.case.section}: {one.case.name}: {one.failure}" for one in results if one.failure]
    return "\n".join([*lines, "", *failed]).rstrip()


async def run(options: argparse.Namespace) -> list[Result]:
    if options.url is None:
        with tempfile.TemporaryDirectory(prefix="tollway-attack-") as folder:
            async with own_gateway(Path(folder)) as victim:
                return await attack(victim, options.section)
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http:
        victim = Victim(http, options.url, options.key, options.model, options.admin_url, options.admin_token)
        return await attack(victim, options.section)


def options_from(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make attack")
    parser.add_argument("--url", help="data port of a running gateway; left out: one is started")
    parser.add_argument("--key", help="a key of it that may use --model")
    parser.add_argument("--model", default="gpt-4o", help="one that only an external zone serves")
    parser.add_argument("--admin-url")
    parser.add_argument("--admin-token")
    parser.add_argument(
        "--section", action="append", default=[], choices=sorted({case.section for case in CASES})
    )
    options = parser.parse_args(arguments)
    if options.url is not None and not options.key:
        parser.error("--url needs --key: most of it is tried with a key that is right")
    return options


def main() -> None:
    results = asyncio.run(run(options_from(sys.argv[1:])))
    print(table(results))
    sys.exit(1 if any(result.failure for result in results) else 0)


if __name__ == "__main__":
    main()
