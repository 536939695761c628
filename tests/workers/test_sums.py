"""The metrics of several workers as those of one gateway, and how long a dead one is given back its work."""

from pathlib import Path

import pytest

from gateway.metrics.across import FamilySamples, MetricSample, exposition_of, lasting, summed
from gateway.workers.pool import Worker
from gateway.workers.restarts import DEATHS, LONGEST_PAUSE_SECONDS, WITHIN_SECONDS, Restarts


def family(name: str, kind: str, *values: float, label: str = "a") -> FamilySamples:
    suffix = "_total" if kind == "counter" else ""
    samples = (
        MetricSample(name + suffix, (("key", f"{label}{n}"),), value) for n, value in enumerate(values)
    )
    return FamilySamples(name, kind, "help", tuple(samples))


def values(families: list[FamilySamples]) -> list[float]:
    return [sample.value for one in families for sample in one.samples]


def test_counters_of_the_same_labels_add_up_and_others_stand_beside_them() -> None:
    first, second = family("tollway_requests", "counter", 1, 2), family("tollway_requests", "counter", 10)
    (total,) = summed([[first], [second], [family("tollway_requests", "counter", 5, label="b")]])
    assert {sample.labels: sample.value for sample in total.samples} == {
        (("key", "a0"),): 11,
        (("key", "a1"),): 2,
        (("key", "b0"),): 5,
    }


def test_money_adds_up_to_the_nano_dollar() -> None:
    # As plain quotients these make 0.30000000000000004.
    parts = [[family("tollway_cost_usd", "counter", amount)] for amount in (0.1, 0.2)]
    assert values(summed(parts)) == [0.3]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("tollway_replica_inflight", 5),
        ("tollway_ledger_lag_rows", 5),
        ("tollway_replica_up", 2),
        ("tollway_ledger_writable", 2),
        ("tollway_budget_spent_usd", 3),
        ("tollway_policy_info", 3),
        ("process_resident_memory_bytes", 5),
        ("process_max_fds", 2),
    ],
)
def test_a_gauge_is_added_up_or_shown_once_by_its_meaning(name: str, shown: float) -> None:
    assert values(summed([[family(name, "gauge", 2)], [family(name, "gauge", 3)]])) == [shown]


def test_a_worker_that_died_leaves_what_it_counted_and_no_gauge() -> None:
    counted = [
        family("tollway_requests", "counter", 4),
        family("tollway_overhead_seconds", "histogram", 7),
        family("tollway_replica_inflight", "gauge", 9),
    ]
    assert values(lasting(counted)) == [4, 7]


def test_the_sum_is_written_as_one_gateway_would_write_it() -> None:
    text = exposition_of(summed([[family("tollway_requests", "counter", 1)]] * 2)).decode()
    assert text.splitlines()[-2:] == [
        "# TYPE tollway_requests_total counter",
        'tollway_requests_total{key="a0"} 2.0',
    ]


def test_a_worker_without_a_process_says_its_number_and_why() -> None:
    worker = Worker(2, Path("2.sock"))
    assert worker.unready() == ["worker 2: starting"]
    worker.down_reason = "starts again after SIGKILL"
    assert worker.unready() == ["worker 2: starts again after SIGKILL"]


def test_pauses_grow_until_it_has_died_too_often() -> None:
    restarts = Restarts()
    pauses = [restarts.died(at) for at in range(DEATHS)]
    assert pauses[-1] is None
    assert pauses[:-1] == sorted(pause for pause in pauses if pause is not None)
    assert 0 < pauses[0] < pauses[-2] <= LONGEST_PAUSE_SECONDS


def test_deaths_of_long_ago_do_not_count() -> None:
    restarts = Restarts()
    first = restarts.died(0.0)
    assert [restarts.died(n * (WITHIN_SECONDS + 1)) for n in range(1, 3 * DEATHS)] == [first] * (
        3 * DEATHS - 1
    )
