"""`tollway policy diff` over a ledger of synthetic rows: seconds for reading and judging them twice.

    python -m benchmarks.policy_diff [--rows 1000000] [--folder /tmp/...]

No two requests have the same size, so that nothing is saved by requests being alike: the worst case. With
--alike sizes repeat as templates make them.
"""

import argparse
import random
import resource
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from gateway.config.build import Built, build
from gateway.config.load import load
from gateway.core.record import Outcome, RecordedFacts, UsageRecord
from gateway.core.usage import Usage
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.ledger.rows import Row, row_of
from gateway.ledger.spans import Span
from gateway.ledger.sqlite.store import INSERT_ROW
from gateway.ledger.url import database_of
from gateway.metrics.logs import only_errors
from gateway.policy.rollout.diff import replay
from gateway.policy.rollout.diff_report import report

WEEK_MICROSECONDS = 7 * 86_400 * 1_000_000
FEATURES = 8
DEPLOYMENTS = ("llama-4-scout", "llama-4-maverick", "gpt-4o", "gpt-4o-mini")
CLASSES = ("internal", "internal", "internal", "confidential")
RULES = """
      - {when: 'prompt_tokens > LIMIT', use: [gpt-4o]}
      - {when: '"image" in modalities', use: [gpt-4o, llama-4-maverick]}
      - {when: 'budget.used > 0.9', use: [llama-4-scout]}
      - {when: 'tags.tier == "gold"', use: [gpt-4o, llama-4-maverick]}
      - {when: 'pool["llama-4-scout"].outstanding > 40', use: [gpt-4o-mini, llama-4-scout]}
      - {when: 'feature == "feature-1" && time.hour >= 18', use: [llama-4-maverick, gpt-4o]}
"""


def config(folder: Path, name: str, *, limit: int, confidential: str) -> Built:
    """A policy of four deployments, one model, six rules and eight features."""
    deployment = (
        "{{provider: {provider}, model: {model}, zone: {zone}, {place}, {key}context_tokens: 128000, "
    )
    deployment += (
        "max_output_tokens: 8192, accepts: [text, image], price: {{input: {price}, output: {price}}}}}"
    )
    deployments = {
        one: deployment.format(
            provider="openai" if one.startswith("gpt") else "vllm",
            model=one,
            zone="external" if one.startswith("gpt") else "local",
            place="base_url: https://api.openai.com/v1"
            if one.startswith("gpt")
            else f'replicas: {{urls: ["http://127.0.0.1:{9100 + number}/v1"]}}',
            key="api_key: sk-0123456789012345, " if one.startswith("gpt") else "",
            price=number + 1,
        )
        for number, one in enumerate(DEPLOYMENTS)
    }
    lines = [
        "zones: {local: {cidrs: [127.0.0.0/8]}, external: {}}",
        "privacy:",
        "  media: {image: internal}",
        "  detect: [{find: [email], raise_to: confidential}]",
        "  zones: {public: [local, external], internal: [local, external], restricted: [local], "
        f"confidential: {confidential}}}",
        "deployments:",
        *(f"  {one}: {text}" for one, text in deployments.items()),
        "models:",
        f"  auto:\n    use: [{', '.join(DEPLOYMENTS)}]\n    prefer: cost\n    rules:"
        + RULES.replace("LIMIT", str(limit)),
        "teams: {research: {}}",
        "features:",
        *(f"  feature-{number}: {{team: research}}" for number in range(FEATURES)),
        "keys:",
        *(
            f"  key-{number}: {{secret: key-of-feature-{number}-0123456789, feature: feature-{number}}}"
            for number in range(FEATURES)
        ),
    ]
    path = folder / name
    path.write_text("\n".join(lines))
    built, problems = build(load(path, {}), PriceCatalogue())
    if built is None:
        raise SystemExit("\n".join(map(str, problems)))
    return built


def rows(count: int, version: str, *, alike: bool) -> Iterator[Row]:
    """`count` rows of the last week."""
    chance = random.Random(7)
    now = time.time_ns() // 1000
    for number in range(count):
        yield row_of(_record(number, chance, now, count, version, alike))


def _record(
    number: int, chance: random.Random, now: int, count: int, version: str, alike: bool
) -> UsageRecord:
    feature = chance.randrange(FEATURES)
    size = chance.choice((200, 400, 800, 1600, 3200, 6400)) if alike else chance.randrange(50, 60_000)
    privacy = chance.choice(CLASSES)
    facts = RecordedFacts(
        text_bytes=size,
        max_output=chance.choice((None, 256, 1024)),
        finds="email" if privacy == "confidential" else "",
        draw=round(chance.random(), 6),
        budget=round(chance.random(), 6),
        pools={"llama-4-scout": (chance.randrange(60), 1, 1)} if chance.random() < 0.5 else {},
    )
    return UsageRecord(
        attempt_id=f"req_{number:010}:1",
        request_id=f"req_{number:010}",
        at=now - WEEK_MICROSECONDS + number * (WEEK_MICROSECONDS // count),
        org="acme",
        team="research",
        feature=f"feature-{feature}",
        key=f"key-{feature}",
        model="auto",
        dispatched_model="llama-4-scout",
        reported_model=None,
        endpoint="chat",
        deployment="llama-4-scout",
        replica="127.0.0.1:9100",
        zone="local",
        privacy=privacy,
        modalities="text,image" if chance.random() < 0.05 else "text",
        decision="cost",
        stream=chance.random() < 0.7,
        status=200,
        outcome=Outcome.SUCCESS,
        finish_reason="stop",
        usage=Usage(input_text=size // 4, output_text=chance.randrange(20, 800)),
        estimated=False,
        service_tier=None,
        price_version="config-1",
        cost_nano_usd=1_000_000,
        counterfactual_nano_usd={},
        held_nano_usd=2_000_000,
        unseen_nano_usd=0,
        ttft_ms=80.0,
        duration_ms=900.0,
        upstream_request_id=None,
        tags={"tier": "gold"} if chance.random() < 0.1 else {},
        policy_version=version,
        facts=facts,
    )


def fill(path: Path, made: Iterator[Row]) -> None:
    """A ledger with these rows. Straight into the table: the rollups are not what is measured."""
    database_of(f"sqlite:///{path}").create_or_migrate()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(INSERT_ROW, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--alike", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = config(folder, "old.yaml", limit=12_000, confidential="[local]")
        new = config(folder, "new.yaml", limit=10_000, confidential="[local, external]")
        fill(folder / "ledger.db", rows(options.rows, old.version, alike=options.alike))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        with only_errors():  # as the command does
            url = f"sqlite:///{folder / 'ledger.db'}"
            found = report(replay(url, old, new, Span(0, None), lambda *_: None))
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{found.attempts:,} rows in {seconds:.1f} s: {found.attempts / seconds:,.0f} a second")
    print(*found.not_judged)
    print(f"judged {found.judged:,}, moved {sum(one.requests for one in found.moved):,}")
    print(f"peak memory grew by {max(grown, 0) / 1024:.0f} MB over that before")


if __name__ == "__main__":
    main()
