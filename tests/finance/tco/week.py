"""The worked week of docs/tco.md, as a configuration and a ledger.

Monday 2026-11-02 to Monday 2026-11-09 UTC: eight H100 at 3 USD, 7,200 USD of overhead a month, traffic that
40% of a full pool could serve. Each row stands for many requests of a real week.
"""

import asyncio
import datetime as dt
from collections.abc import Iterable, Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

import msgspec

from gateway.config.build import Built, build
from gateway.config.load import load
from gateway.core.pool_cost import SECOND, PoolTerms
from gateway.core.pricing import cost
from gateway.core.rates import Rates
from gateway.core.record import Outcome, RecordedFacts, UsageRecord
from gateway.core.usage import Usage
from gateway.finance.pool_booking import Accruing, accrue
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.ledger.opening import open_ledger
from tests.core.builders import used
from tests.ledger.ledger_records import RecordWriter

SINCE = dt.datetime(2026, 11, 2, tzinfo=dt.UTC)
UNTIL = dt.datetime(2026, 11, 9, tzinfo=dt.UTC)
STARTS, ENDS = (round(at.timestamp()) * SECOND for at in (SINCE, UNTIL))
GPT_4O = Rates(
    input=2_500_000_000,
    cached_input=1_250_000_000,
    output=10_000_000_000,
    input_audio=0,
    output_audio=0,
)
M = 1_000_000

CONFIG = """
server: {{admin: {{port: 0, token: admin-token-0123456789}}, data: {{port: 0}}}}
ledger: sqlite:///{folder}/tollway.db
zones: {{local: {{cidrs: [127.0.0.0/8]}}, external: {{}}}}
deployments:
  gpt-4o:
    provider: openai
    model: gpt-4o-2024-11-20
    base_url: https://api.openai.com/v1
    api_key: sk-account-key-0123456789
    zone: external
    context_tokens: 128000
    max_output_tokens: 16384
    price: {{input: 2.50, cached_input: 1.25, output: 10.00}}
  llama-4-scout:
    provider: vllm
    model: meta-llama/Llama-4-Scout-17B-16E-Instruct
    zone: local
    context_tokens: 131072
    max_output_tokens: 8192
    replicas: {{urls: ["http://127.0.0.1:9101/v1"]}}
    cost:
      gpu: H100-80GB
      gpus_per_replica: 8
      usd_per_gpu_hour: 3
      overhead_usd_per_month: 7200
{saturation}
      marginal_usd_per_million_tokens: 0.05
      idle: {idle}
    price: {{input: 0.20, output: 0.80}}
models: {{auto: {{use: [llama-4-scout, gpt-4o]}}, gpt-4o: {{use: [gpt-4o]}}}}
teams: {{research: {{}}, legal: {{}}}}
features: {{triage: {{team: research}}, search: {{team: research}}, review: {{team: legal}}}}
keys: {{app: {{secret: key-of-the-app-0123456789, feature: triage}}}}
"""


def config(folder: Path, *, idle: str = "proportional", saturation: int | None = 1000) -> Path:
    """Without a saturation nobody has measured how much a replica can do."""
    path = folder / "tollway.yaml"
    line = "" if saturation is None else f"      saturation_tokens_per_second: {saturation}"
    path.write_text(CONFIG.format(folder=folder, idle=idle, saturation=line))
    return path


def built(path: Path) -> Built:
    found, problems = build(load(path, {}), PriceCatalogue())
    assert found is not None, problems
    return found


def records() -> Iterator[UsageRecord]:
    """Tokens of each group and of each of its rows, in millions: see the first table of the page."""
    pool = {"deployment": "llama-4-scout", "zone": "local", "model": "auto", "team": "research"}
    hosted = {"deployment": "gpt-4o", "zone": "external"}
    yield from _rows(120, Usage(input_text=3 * M, output_text=1_140_000), **pool, feature="triage")
    yield from _rows(120, Usage(input_text=1_260_000, output_text=315_000), **pool, feature="search")
    mixed = used(input_text=M, input_cached=250_000, output_text=200_000)
    yield from _rows(40, mixed, **hosted, model="auto", team="research", feature="triage")
    review = Usage(input_text=2_500_000, output_text=500_000)
    yield from _rows(40, review, **hosted, model="gpt-4o", team="legal", feature="review")


def write(path: Path, *, booked: bool = True, instead: Iterable[UsageRecord] | None = None) -> None:
    """The week, or other rows `instead`, into the ledger of the configuration at `path`."""
    found = built(path)
    url = found.settings.ledger_url

    async def fill() -> None:
        writer = RecordWriter(open_ledger(url))
        await writer.start()
        for record in records() if instead is None else instead:
            writer.append(record)
        await writer.close()

    asyncio.run(fill())
    if booked:
        pools = [Accruing(one.plan, STARTS) for one in found.pools]
        for hour in range(1, 7 * 24 + 1):
            accrue(url, pools, STARTS + hour * 3600 * SECOND, ZoneInfo("UTC"))


def terms(path: Path) -> PoolTerms:
    (one,) = built(path).pools
    return one


def _rows(count: int, usage: Usage, **names: str) -> Iterator[UsageRecord]:
    is_pool = names["deployment"] == "llama-4-scout"
    bytes_per_token = 4 if is_pool else 5
    for number in range(count):
        request = f"req_{names['feature']}_{names['deployment']}_{number:04}"
        record = UsageRecord(
            attempt_id=f"{request}:1",
            request_id=request,
            at=STARTS + (ENDS - STARTS) * number // count,
            org="acme",
            key="app",
            dispatched_model="-",
            reported_model=None,
            endpoint="chat",
            replica="-",
            privacy="internal",
            modalities="text",
            decision="order",
            stream=True,
            status=200,
            outcome=Outcome.SUCCESS,
            finish_reason="stop",
            usage=usage,
            estimated=False,
            service_tier=None,
            price_version="config-1",
            cost_nano_usd=cost(_TRANSFER if is_pool else GPT_4O, usage),
            counterfactual_nano_usd={},
            held_nano_usd=0,
            unseen_nano_usd=0,
            ttft_ms=200.0 if is_pool else 400.0,
            duration_ms=(200.0 if is_pool else 400.0) + 0.02 * (usage.output_tokens - 1),
            upstream_request_id=None,
            tags={},
            policy_version="p",
            facts=RecordedFacts(text_bytes=bytes_per_token * usage.input_tokens),
            **names,
        )
        yield record


_TRANSFER = msgspec.structs.replace(GPT_4O, input=200_000_000, cached_input=200_000_000, output=800_000_000)
