"""How long a decision takes: `python -m benchmarks.planning` prints medians in microseconds.

One request of 2 KB of text, default detectors, 8 deployments, 20 rules of which none holds (the longest way).
Classifying and planning are what stands between a parsed request and its dispatch.
"""

import statistics
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

import orjson
import yaml

from benchmarks.detectors import ENGLISH, JAPANESE
from gateway.config.build import Built, build
from gateway.config.load import load
from gateway.core.balancing import Fleet
from gateway.core.catalog import Api
from gateway.core.facts import Moment
from gateway.core.parse import parse_call
from gateway.core.route import Routes
from gateway.core.screening import Classified
from gateway.finance.price_catalogue import PriceCatalogue
from gateway.proxy.classify import Classifier

TEXT_BYTES = 2_000
DEPLOYMENTS, RULES = 8, 20
ROUNDS, RUNS = 41, 500

PLAIN = 'feature == "f{}" && prompt_tokens > {}000 || budget.used > 1.{}'
ENGINE = 'feature.startsWith("f{}") && prompt_tokens > {}000 || budget.used > 1.{}'


def configuration(condition: str, prefer: str) -> dict[str, object]:
    """A file with as many rules and deployments as the promise speaks of."""
    names = [f"d{number}" for number in range(DEPLOYMENTS)]
    deployment = {
        "provider": "openai-compatible",
        "model": "m",
        "context_tokens": 100_000,
        "max_output_tokens": 4_000,
        "zone": "local",
        "price": {"input": 1, "output": 4},
        "base_url": "http://10.0.0.1/v1",
    }
    rules = [{"when": condition.format(n, n, n), "use": names[:2]} for n in range(1, RULES + 1)]
    detectors = ["email", "credit_card", "iban", "jp_my_number", "us_ssn", "secret"]
    return {
        "zones": {"local": {}},
        "privacy": {
            "classes": ["internal", "confidential"],
            "zones": {"internal": ["local"], "confidential": ["local"]},
            "detect": [{"find": detectors, "raise_to": "confidential"}],
        },
        "deployments": dict.fromkeys(names, deployment),
        "models": {"auto": {"use": names, "prefer": prefer, "rules": rules}},
        "teams": {"t": {}},
        "features": {"search": {"team": "t"}},
        "keys": {"app": {"secret": "secret-of-the-benchmark-0", "feature": "search"}},
    }


def built(condition: str, prefer: str) -> Built:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tollway.yaml"
        path.write_text(yaml.safe_dump(configuration(condition, prefer)))
        made, problems = build(load(path, {}), PriceCatalogue())
    if made is None:
        raise SystemExit("\n".join(map(str, problems)))
    return made


def median_microseconds(run: Callable[[], object]) -> float:
    run()
    return statistics.median(timeit.repeat(run, number=RUNS, repeat=ROUNDS)) / RUNS * 1e6


def measure(condition: str, prefer: str, text: str) -> tuple[float, float]:
    """Microseconds to classify, and to plan."""
    made = built(condition, prefer)
    fleet = Fleet(made.policy.deployments.values())
    routes = Routes(made.policy, fleet, zone=made.tenancy.time_zone)
    classifier = Classifier(made.policy, made.screenings)
    body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
    call, parsed = parse_call(Api.CHAT, orjson.dumps(body), 100)
    (entry,) = made.tenancy.keys.values()
    who, classified = entry.default, Classified("internal")

    def classify() -> None:
        waiting = classifier.classify(call, parsed, who, {})
        try:
            waiting.send(None)  # short texts never wait, so no loop need turn
        except StopIteration:
            return
        raise SystemExit("the text is too long to be classified inline")

    def plan() -> None:
        moment = Moment(1.8e9, 1000.0, 0.5, 0.25)
        routes.of(who, call.model, moment.now).begin("r", call, classified, moment)

    return median_microseconds(classify), median_microseconds(plan)


def cut(text: str) -> str:
    """As much of `text`, repeated, as takes TEXT_BYTES in UTF-8."""
    return (text * TEXT_BYTES).encode()[:TEXT_BYTES].decode(errors="ignore")


def main() -> None:
    print(f"{RULES} rules, {DEPLOYMENTS} deployments, default detectors, {TEXT_BYTES} bytes; medians in us")
    print(f"{'rules':<8}{'prefer':<8}{'text':<10}{'classify':>9}{'plan':>8}{'sum':>8}")
    for rules, condition in (("plain", PLAIN), ("engine", ENGINE)):
        for prefer in ("order", "cost"):
            for name, text in (("English", ENGLISH), ("Japanese", JAPANESE)):
                classify, plan = measure(condition, prefer, cut(text))
                print(f"{rules:<8}{prefer:<8}{name:<10}{classify:9.1f}{plan:8.1f}{classify + plan:8.1f}")


if __name__ == "__main__":
    main()
