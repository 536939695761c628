"""Prices: from the catalogue, from the file, or derived from what the own GPUs cost; never guessed."""

import datetime
import subprocess
import sys
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config.catalogue import Deployment
from gateway.config.deployments import DeploymentError, build_deployment, end_of_day, parse_networks
from gateway.core import catalog
from gateway.core.catalog import Modality
from gateway.core.money import nano_from_usd
from gateway.core.rates import Rates
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.finance.tariffs import tariffs
from tests.core.builders import rates

CATALOGUE = PriceCatalogue()
TOKYO = ZoneInfo("Asia/Tokyo")


def built(**settings: Any) -> catalog.Deployment:
    return build_deployment(
        "one",
        Deployment.model_validate({"zone": "external"} | settings),
        {"external": None, "local": parse_networks(("10.0.0.0/8",))},
        CATALOGUE,
        TOKYO,
    )


def openai(**settings: Any) -> catalog.Deployment:
    fields = {
        "provider": "openai",
        "model": "gpt-4o",
        "base_url": "https://api.openai.com/v1",
        "api_key": "sk-hunter2-0123456789",
    }
    return built(**(fields | settings))


def vllm(**settings: Any) -> catalog.Deployment:
    fields = {
        "provider": "vllm",
        "model": "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "replicas": {"urls": ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1"]},
        "zone": "local",
        "context_tokens": 131_072,
        "max_output_tokens": 8192,
    }
    return built(**(fields | settings))


# --- the catalogue ---


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-2024-11-20"])
def test_gpt_4o_at_openai(model: str):
    found = CATALOGUE.find("openai", model)
    assert found is not None
    assert found.prices is not None
    assert tariffs(found.prices).standard == rates("2.50", "10", cached="1.25")
    # No cached price is listed for batches: there it costs what input does.
    expected = {"priority": rates("4.25", "17", cached="2.125"), "batch": rates("1.25", "5")}
    assert tariffs(found.prices).tiers == expected
    assert (found.context_tokens, found.max_output_tokens) == (128_000, 16_384)


def test_gpt_4o_at_azure_is_listed_by_itself():
    found = CATALOGUE.find("azure", "gpt-4o")
    assert found is not None
    assert found.prices is not None
    assert tariffs(found.prices).standard == rates("2.50", "10", cached="1.25")
    assert (found.context_tokens, found.max_output_tokens) == (128_000, 16_384)


def test_gpt_4o_mini_and_a_fine_tuned_gpt_4o():
    mini, tuned = CATALOGUE.find("openai", "gpt-4o-mini"), CATALOGUE.find("openai", "ft:gpt-4o-2024-08-06")
    assert mini is not None
    assert tuned is not None
    assert mini.prices is not None
    assert tuned.prices is not None
    searches = {"search_queries": 25_000_000 * 1_000_000}
    assert tariffs(mini.prices).standard == msgspec.structs.replace(
        rates("0.15", "0.60", cached="0.075"), units=searches
    )
    assert tariffs(tuned.prices).standard == rates("3.75", "15", cached="1.875")


def test_an_embedding_model_has_no_output_price():
    found = CATALOGUE.find("openai", "text-embedding-3-small")
    assert found is not None
    assert found.prices is not None
    assert tariffs(found.prices).standard == rates("0.02", "0")


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-9"), ("vllm", "my-own"), ("azure", "our-deployment"), ("", "")]
)
def test_an_unknown_model_is_not_listed(provider: str, model: str):
    assert CATALOGUE.find(provider, model) is None


def test_a_chat_model_that_is_priced_for_reading_only_has_no_price():
    found = CATALOGUE.find("azure", "model-router")
    assert found is not None
    assert found.prices is None


def test_the_entry_that_explains_the_others_is_no_model():
    assert PriceCatalogue().find("openai", "sample_spec") is None


def test_the_catalogue_says_which_edition_it_is():
    assert CATALOGUE.version.startswith("litellm-1.")


def test_the_catalogue_is_read_without_importing_litellm():
    code = (
        "import sys; from gateway.finance.price_catalogue import PriceCatalogue; "
        "assert PriceCatalogue().find('openai', 'gpt-4o'); assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)


# --- which price a deployment has ---


def test_without_a_price_that_of_the_catalogue_holds_with_its_tiers_and_edition():
    found = openai()
    assert found.price.standard == rates("2.50", "10", cached="1.25")
    assert found.price.rates("priority") == rates("4.25", "17", cached="2.125")
    assert found.price.version.startswith(f"{CATALOGUE.version}-")
    assert (found.context_tokens, found.max_output_tokens) == (128_000, 16_384)


def test_a_configured_price_holds_instead_and_what_it_leaves_out_is_as_input_or_output():
    found = openai(price={"input": "3", "output": "12"}).price
    assert found.standard == rates("3", "12")
    assert found.tiers == {}
    assert found.version.startswith("config-")
    full = {"input": "3", "cached_input": "1", "output": "12", "input_audio": "40", "output_audio": "80"}
    assert openai(price=full).price.standard == rates(
        "3", "12", cached="1", input_audio="40", output_audio="80"
    )


def test_what_a_tier_leaves_out_is_as_in_the_standard_one():
    price = {"input": "3", "output": "12", "batch": {"input": "1.5"}, "priority": {"output": "24"}}
    found = openai(price=price).price
    assert found.rates("batch") == Rates(
        input=nano_from_usd("1.5"),
        cached_input=nano_from_usd("3"),
        output=nano_from_usd("12"),
        input_audio=nano_from_usd("3"),
        output_audio=nano_from_usd("12"),
    )
    assert found.rates("priority").output == nano_from_usd("24")


def test_a_configured_price_has_what_else_the_provider_asks_for_in_the_catalogues_proportion():
    """gpt-6-astra is listed at 10 and 50, a write at 12.50; above 272k tokens at 20 and 75."""
    price = {"input": "1", "cached_input": "0.1", "output": "5"}
    found = openai(model="gpt-6-astra", price=price).price.standard
    assert found.of("cache_write") == nano_from_usd("1.25")
    (band,) = found.above
    assert band.tokens == 272_000
    assert (band.rates.input, band.rates.output) == (nano_from_usd("2"), nano_from_usd("7.5"))
    assert (band.rates.cached_input, band.rates.of("cache_write")) == (
        nano_from_usd("0.2"),
        nano_from_usd("2.5"),
    )


def test_a_configured_price_may_say_all_of_it():
    price = {
        "input": "1",
        "output": "5",
        "units": {"cache_write": "3", "cache_write_1h": "4", "output_reasoning": "6"},
        "per_request": "0.005",
        "per_search": "0.01",
        "above": [{"tokens": 1000, "input": "2", "output": "7", "units": {"cache_write": "9"}}],
        "hours": [{"from": "22:00", "until": "02:00", "days": ["fri"], "input": "0.5"}],
        "tiers": {"ultrafast": {"input": "3", "above": [{"tokens": 1000, "output": "70"}]}},
    }
    found = openai(model="gpt-6-astra", price=price).price
    at = found.standard
    assert (at.of("cache_write"), at.of("cache_write_1h")) == (nano_from_usd("3"), nano_from_usd("4"))
    assert (found.per_request, found.per_search) == (5_000_000, 10_000_000)
    assert [band.tokens for band in at.above] == [1000]
    assert at.above[0].rates.of("cache_write") == nano_from_usd("9")
    assert at.above[0].rates.of("output_reasoning") == nano_from_usd("8.4")  # in proportion
    fast = found.rates("ultrafast")
    assert (fast.input, fast.output) == (nano_from_usd("3"), nano_from_usd("5"))
    assert fast.above[0].rates.input == nano_from_usd("6")  # twice as much, as in the standard tier
    assert fast.above[0].rates.output == nano_from_usd("70")
    minutes = [(one.begins, one.ends) for one in at.hours]
    assert minutes == [((4 * 24 + 22) * 60, (5 * 24 + 2) * 60)]
    assert (at.hours[0].rates.input, at.hours[0].rates.output) == (nano_from_usd("0.5"), nano_from_usd("5"))
    assert at.hours[0].rates.above[0].rates.input == nano_from_usd("1")


def test_an_empty_list_of_bands_says_that_there_are_none():
    found = openai(model="gpt-6-astra", price={"input": "1", "output": "5", "above": []}).price
    assert found.standard.above == ()


def test_own_servers_are_not_priced_by_a_namesake_in_the_catalogue():
    assert vllm(model="gpt-6-astra", price={"input": "1", "output": "5"}).price.standard == rates("1", "5")


@pytest.mark.parametrize(
    ("price", "said"),
    [
        ({"units": {"cache_wirte": 1}}, "is no unit"),
        ({"tiers": {"default": {}}}, "is another name of the price itself"),
        ({"tiers": {"batches": {}}}, "is another name of batch"),
        ({"hours": [{"from": "25:00", "until": "1:00"}]}, "must be a time of day"),
        ({"hours": [{"from": "04:00", "until": "06:00", "days": ["someday"]}]}, "must be one of mon, tue"),
    ],
)
def test_a_price_that_means_nothing_is_refused(price: dict[str, Any], said: str):
    with pytest.raises(ValidationError, match=said):
        openai(price={"input": "1", "output": "5"} | price)


def test_equal_numbers_have_an_equal_version_and_others_another():
    same = [openai(price={"input": text, "output": "10"}).price.version for text in ("2.5", "2.50", "2.500")]
    assert len(set(same)) == 1
    assert openai(price={"input": "2.51", "output": "10"}).price.version != same[0]


def test_a_price_of_many_digits_is_rounded_up_to_a_nano_dollar_for_a_million_tokens():
    found = openai(price={"input": "0.000000000001", "output": "1.0000000001"}).price.standard
    assert (found.input, found.output) == (1, 1_000_000_001)


@pytest.mark.parametrize("provider", ["openai", "azure", "openai-compatible"])
def test_a_model_that_nobody_prices_is_refused_with_the_field_to_fill(provider: str):
    with pytest.raises(DeploymentError) as caught:
        openai(provider=provider, model="gpt-9", context_tokens=1000, max_output_tokens=100)
    assert caught.value.field == "price"
    assert "gpt-9" in caught.value.message


@pytest.mark.parametrize(
    ("given", "field"),
    [({"max_output_tokens": 100}, "context_tokens"), ({"context_tokens": 1000}, "max_output_tokens")],
)
def test_sizes_that_nobody_knows_are_refused_with_the_field_to_fill(given: dict[str, int], field: str):
    with pytest.raises(DeploymentError) as caught:
        openai(model="gpt-9", price={"input": "1", "output": "2"}, **given)
    assert caught.value.field == field


def test_a_deployment_that_only_embeds_needs_no_output_size():
    found = openai(model="text-embedding-3-small", serves=["embeddings"])
    assert found.max_output_tokens == 1
    assert found.price.standard == rates("0.02", "0")


# --- the transfer price ---

COST: dict[str, Any] = {
    "gpu": "H100-80GB",
    "gpus_per_replica": 8,
    "usd_per_gpu_hour": "2.99",
    "overhead_usd_per_month": 8000,
    "saturation_tokens_per_second": 2600,
}


def test_the_transfer_price_of_the_example_by_hand():
    found = vllm(cost=COST).price
    per_hour = 8 * Decimal("2.99") + Decimal(8000) / 730 / 2  # a replica's GPUs, and half of the overhead
    per_million = per_hour * 1_000_000 / (2600 * 3600)
    assert Decimal("3.14") < per_million < Decimal("3.15")
    assert found.standard.input == nano_from_usd(per_million * Decimal("0.2"))
    assert found.standard.output == nano_from_usd(per_million * Decimal("0.8"))
    assert found.standard.cached_input == found.standard.input_audio == found.standard.input
    assert found.standard.output_audio == found.standard.output
    assert found.version.startswith("cost-")
    assert found.tiers == {}


def test_at_saturation_the_transfer_price_pays_for_the_gpus():
    found = vllm(cost=COST | {"overhead_usd_per_month": 0}).price.standard
    an_hour = 2600 * 3600
    charged = Decimal((found.input + found.output) * an_hour) / 1_000_000 / 10**9
    assert abs(charged - 8 * Decimal("2.99")) < Decimal("0.000001")


def test_each_price_of_the_gpus_makes_a_transfer_price_from_its_day_on():
    prices = [{"usd": "9"}, {"since": "2026-01-01", "usd": "2.99"}, {"since": "2999-01-01", "usd": "1"}]
    found = vllm(cost=COST | {"usd_per_gpu_hour": prices})
    begins = round(datetime.datetime(2026, 1, 1, tzinfo=TOKYO).timestamp() * 1_000_000)
    alone = {usd: vllm(cost=COST | {"usd_per_gpu_hour": usd}).price for usd in ("9", "2.99", "1")}
    assert found.price == alone["9"]
    assert [later.price for later in found.later_prices] == [alone["2.99"], alone["1"]]
    assert found.price_listed_at(begins - 1) == alone["9"]
    assert found.price_listed_at(begins) == alone["2.99"] == vllm(cost=COST).price


def test_a_price_holds_before_the_cost_of_the_gpus():
    assert vllm(cost=COST, price={"input": "0.3", "output": "1.2"}).price.standard == rates("0.3", "1.2")


def test_without_a_saturation_there_is_no_transfer_price():
    with pytest.raises(DeploymentError) as caught:
        vllm(cost=COST | {"saturation_tokens_per_second": None})
    assert caught.value.field == "cost.saturation_tokens_per_second"


@settings(deadline=None)
@given(
    gpus=st.integers(1, 16),
    hourly=st.decimals("0.01", "20", places=2),
    overhead=st.integers(0, 10**6),
    speed=st.integers(1, 10**6),
)
def test_a_transfer_price_is_rounded_up_and_never_nothing(
    gpus: int, hourly: Decimal, overhead: int, speed: int
):
    cost = COST | {
        "gpus_per_replica": gpus,
        "usd_per_gpu_hour": str(hourly),
        "overhead_usd_per_month": overhead,
        "saturation_tokens_per_second": speed,
    }
    found = vllm(cost=cost).price.standard
    per_hour = gpus * hourly + Decimal(overhead) / 730 / 2
    exact = per_hour * 10**15 / (speed * 3600)
    for nano, share in ((found.input, Decimal("0.2")), (found.output, Decimal("0.8"))):
        assert nano >= 1
        assert abs(nano - (exact * share).to_integral_value(rounding=ROUND_CEILING)) <= 1
        assert nano >= exact * share - Decimal("0.001")


# --- addresses, headers and the rest ---


def test_a_hosted_deployment_has_one_replica_at_its_base_url():
    (replica,) = openai(base_url="https://api.openai.com/v1/").replicas
    assert (replica.name, replica.base_path, replica.query) == ("api.openai.com:443", "/v1", "")
    assert replica.target(catalog.Api.CHAT) == b"/v1/chat/completions"
    assert replica.target(catalog.Api.EMBEDDINGS) == b"/v1/embeddings"
    assert replica.endpoint.networks is None


def test_an_azure_deployment_is_a_path_with_its_api_version():
    found = openai(provider="azure", base_url="https://ours.openai.azure.com")
    assert found.replicas[0].target(catalog.Api.CHAT) == (
        b"/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21"
    )
    assert (b"api-key", b"sk-hunter2-0123456789") in found.headers
    assert all(name != b"authorization" for name, _ in found.headers)


@pytest.mark.parametrize("text", ["my model", "a\r\nhost: evil", "gpt#4", "größe", "a\0"])
@pytest.mark.parametrize("field", ["model", "azure.api_version"])
def test_a_name_that_cannot_stand_in_azures_path_is_refused_when_the_file_is_read(field: str, text: str):
    changes: dict[str, Any] = {"model": text} if field == "model" else {"azure": {"api_version": text}}
    sizes = {"price": {"input": 1, "output": 1}, "context_tokens": 1000, "max_output_tokens": 100}
    with pytest.raises(DeploymentError) as caught:
        openai(provider="azure", base_url="https://ours.openai.azure.com", **sizes, **changes)
    assert caught.value.field == field


def test_own_replicas_must_lie_in_the_networks_of_their_zone_and_are_probed():
    found = vllm(cost=COST)
    assert [item.name for item in found.replicas] == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert all(str(item.endpoint.networks[0]) == "10.0.0.0/8" for item in found.replicas)
    assert found.health is not None
    assert openai().health is None
    assert found.serves == {catalog.Api.CHAT, catalog.Api.COMPLETIONS}


def test_a_credential_becomes_a_bearer_header_and_answers_are_asked_for_unpacked():
    headers = dict(openai(headers={"openai-organization": "org-1"}).headers)
    assert headers[b"authorization"] == b"Bearer sk-hunter2-0123456789"
    assert headers[b"accept-encoding"] == b"identity"
    assert headers[b"openai-organization"] == b"org-1"


def test_a_day_ends_at_the_next_midnight_of_the_orgs_time_zone():
    end = end_of_day(datetime.date(2027, 1, 14), TOKYO)
    assert datetime.datetime.fromtimestamp(end, datetime.UTC).isoformat() == "2027-01-14T15:00:00+00:00"
    found = openai(retires_on=datetime.date(2027, 1, 14))
    assert found.retires_at == end
    assert openai().retires_at is None


@pytest.mark.parametrize(
    ("found", "low", "high"),
    [
        (openai(), 85, 85 + 8 * 170),
        (openai(model="gpt-4o-mini"), 2833, 2833 + 8 * 5667),
        (vllm(cost=COST), 2467, 2467),
    ],
    ids=["gpt-4o", "gpt-4o-mini", "llama-4"],
)
def test_an_image_costs_at_most_the_published_tiles(found: catalog.Deployment, low: int, high: int):
    assert (found.image_rule.low, found.image_rule.high) == (low, high)


def test_a_deployment_reads_text_only_unless_it_says_more():
    assert openai().accepts == {Modality.TEXT}
    assert openai(accepts=["text", "image"]).accepts == {Modality.TEXT, Modality.IMAGE}
