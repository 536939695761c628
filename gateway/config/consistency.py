"""Keys that only make sense together, or that must differ from each other."""

import datetime
from collections.abc import Iterator
from decimal import Decimal
from typing import Final
from urllib.parse import urlsplit

from gateway.config.kinds import exact_number
from gateway.config.nodes import ConfigNode
from gateway.config.problem_report import ProblemReport
from gateway.config.references import Check
from gateway.core.licenses import TERMS, conflict
from gateway.proxy.auth import MAX_SECRET_LENGTH

SHORTEST_SAFE_SECRET: Final = 16  # characters
RETIREMENT_NOTICE_DAYS: Final = 30
_NEEDS_KEY: Final = frozenset({"openai", "azure"})
_NEEDS_BASE_URL: Final = frozenset({"openai", "azure", "openai-compatible"})
_COUNTS_CONTINUOUSLY: Final = frozenset({"vllm", "openai-compatible"})
_GENERATES: Final = frozenset({"chat", "completions", "responses", "audio", "images", "videos", "realtime"})
_ENDPOINTS: Final = ("/chat/completions", "/completions", "/embeddings", "/responses")
_LEAST_OUTPUT_USD: Final = Decimal("0.015")  # for a million tokens: below the cheapest that is sold
_SCOPES: Final = ("org", "teams.*", "features.*", "keys.*")
_LISTS_OF_DISTINCT: Final = (
    "privacy.classes",
    "privacy.zones.*",
    "privacy.detect.*.find",
    "features.*.mask",
    "privacy.entities.find",
    "privacy.detectors.*.words",
    "privacy.detectors.*.allow",
    "zones.*.cidrs",
    "deployments.*.serves",
    "deployments.*.accepts",
    "deployments.*.supports",
    "deployments.*.dialect.allow_fields",
    "deployments.*.dialect.reasoning_effort",
    "deployments.*.replicas.urls",
    "models.*.use",
    "models.*.rules.*.use",
    "keys.*.features",
    "keys.*.models",
)


def check_lists_are_distinct(root: ConfigNode, report: ProblemReport) -> None:
    for pattern in _LISTS_OF_DISTINCT:
        for node in root.find(pattern):
            seen: set[str] = set()
            for item in node.items():
                if item.text is not None and item.text.rstrip("/") in seen:
                    report.error(item, "is listed twice: remove one")
                seen.add((item.text or "").rstrip("/"))


def check_gpu_prices(root: ConfigNode, report: ProblemReport) -> None:
    """Each price begins after the one before it, so that there is one for each day."""
    for prices in root.find("deployments.*.cost.usd_per_gpu_hour"):
        before: str | None = None
        for index, price in enumerate(prices.items()):
            since = price["since"].text if price["since"].exists else None
            if index and since is None:
                report.error(price, "since is required from the second price on: its first day")
            elif before is not None and since is not None and since <= before:
                report.error(price["since"], "must be later than that of the price before it")
            before = since or before


def check_work_weights(root: ConfigNode, report: ProblemReport) -> None:
    for weights in root.find("deployments.*.cost.weights"):
        given = [exact_number(weights[name].text) for name in ("prefill", "decode")]
        if given == [0, 0]:
            report.error(weights, "prefill and decode are both 0: nothing would count as work")


def check_destinations(root: ConfigNode, report: ProblemReport) -> None:
    for _, deployment in root["deployments"].entries():
        provider = deployment["provider"].text
        if deployment.is_mapping and provider is not None:
            _check_where(deployment, provider, report)
            _check_price(deployment, provider, report)
        _check_replicas(deployment["replicas"], report)


def _check_where(deployment: ConfigNode, provider: str, report: ProblemReport) -> None:
    has_url, has_replicas = deployment["base_url"].exists, deployment["replicas"].exists
    if provider == "vllm" and has_url == has_replicas:
        report.error(deployment, "a vllm deployment needs either replicas or base_url")
    if provider in _NEEDS_BASE_URL and not has_url:
        report.error(deployment, "base_url is required, such as https://api.openai.com/v1")
    if provider != "vllm" and has_replicas:
        report.error(deployment["replicas"], "is only for provider vllm: use base_url")
    if provider in _NEEDS_KEY and deployment["api_key"].parsed is None:
        report.error(deployment, f'api_key is required for {provider}, such as "${{OPENAI_API_KEY}}"')
    if provider not in _COUNTS_CONTINUOUSLY and deployment["continuous_usage"].text == "true":
        report.error(
            deployment["continuous_usage"],
            f"{provider} refuses stream_options.continuous_usage_stats: leave it out",
        )
    if provider != "azure" and deployment["azure"].exists:
        report.error(deployment["azure"], "is only for provider azure")


def _check_price(deployment: ConfigNode, provider: str, report: ProblemReport) -> None:
    price, cost = deployment["price"], deployment["cost"]
    if provider == "vllm" and not price.exists and not cost.exists:
        report.error(deployment, "price and cost are both missing: give one, or its use would look free")
    if cost.is_mapping and not price.exists and not cost["saturation_tokens_per_second"].exists:
        report.error(cost, "saturation_tokens_per_second is required unless there is a price")
    serves = deployment["serves"].texts() if deployment["serves"].exists else ("chat",)
    if price.is_mapping and not price["output"].exists and _GENERATES.intersection(serves):
        report.error(price, "output is required: USD per million output tokens")


def _check_replicas(replicas: ConfigNode, report: ProblemReport) -> None:
    given = [key for key in ("urls", "dns", "kubernetes") if replicas[key].exists]
    if replicas.is_mapping and len(given) != 1:
        report.error(replicas, "needs exactly one of urls, dns and kubernetes")


def check_tls(root: ConfigNode, report: ProblemReport) -> None:
    for pattern in ("deployments.*.tls", "telemetry.traces.tls"):
        for tls in root.find(pattern):
            for given, lacking in (("cert_file", "key_file"), ("key_file", "cert_file")):
                if tls[given].exists and not tls[lacking].exists:
                    report.error(tls[given], f"needs {lacking} beside it")


def check_token_bounds(root: ConfigNode, report: ProblemReport) -> None:
    for _, deployment in root["deployments"].entries():
        context, output = (deployment[key].text or "" for key in ("context_tokens", "max_output_tokens"))
        if context.isdecimal() and output.isdecimal() and len(context + output) < 40:  # noqa: SIM102
            if int(output) > int(context):
                report.error(deployment["max_output_tokens"], "must be <= context_tokens")


def check_budgets(root: ConfigNode, report: ProblemReport) -> None:
    for scope in _SCOPES:
        for budgets in root.find(f"{scope}.budgets"):
            first: dict[str, int] = {}
            for budget in budgets.items():
                per, rolling = budget["per"].text, budget["rolling"].text == "true"
                if rolling and per == "lifetime":
                    report.error(budget["rolling"], "a lifetime budget cannot be rolling")
                window = f"rolling {per}" if rolling else per
                if window is not None and window in first:
                    report.error(budget["per"], f"line {first[window]} already has a budget for this window")
                elif window is not None:
                    first[window] = budget["per"].line


def check_limits(root: ConfigNode, report: ProblemReport) -> None:
    for scope in _SCOPES:
        for limits in root.find(f"{scope}.limits"):
            if limits["estimate"].text == "typical" and not limits["tokens_per_minute"].exists:
                report.warn(limits["estimate"], "has no effect without tokens_per_minute")


def check_secrets(root: ConfigNode, report: ProblemReport) -> None:
    first: dict[str, ConfigNode] = {}
    for secret in root.find("keys.*.secret"):
        if secret.text is None:
            continue
        if secret.text in first:
            other = first[secret.text]
            report.error(secret, f"is the same as that of keys.{other.path[1]} on line {other.line}")
        else:
            first[secret.text] = secret
        if len(secret.text) > MAX_SECRET_LENGTH:
            report.error(secret, f"is longer than the {MAX_SECRET_LENGTH} characters that a key may have")
    for node, danger in dangers(root):
        report.warn(node, danger)
    for pattern in ("keys.*.secret", "server.admin.token", "server.key_pepper"):
        for secret in root.find(pattern):
            if secret.text and len(secret.text) < SHORTEST_SAFE_SECRET:
                report.warn(secret, f"is shorter than {SHORTEST_SAFE_SECRET} characters and can be guessed")
    if not root["server"]["admin"]["token"].exists:
        report.warn(
            root["server"]["admin"]["token"], "is not set: the admin port answers only /healthz and /readyz"
        )


def dangers(root: ConfigNode) -> Iterator[tuple[ConfigNode, str]]:
    """What nobody can mean: said by `check`, in the log, and under `degraded` while it is in force."""
    token = root["server"]["admin"]["token"]
    for secret in root.find("keys.*.secret"):
        if token.text and secret.text == token.text:
            yield token, f"is the secret of keys.{secret.path[1]}: that client may administer the gateway"
    if not any(root["keys"].entries()):
        yield root["keys"], "is empty: every request is refused with 401"


def check_licenses(root: ConfigNode, report: ProblemReport) -> None:
    """Says where a licence withholds its rights; whether its weights are then used is the file's choice."""
    org = root["org"]
    users = exact_number(org["monthly_users"].text)
    forbids = org["license_conflicts"].text == "forbid"
    then = (
        "the deployment is not used" if forbids else "it is used all the same (org.license_conflicts: warn)"
    )
    for _, deployment in root["deployments"].entries():
        license_name = deployment["license"]
        if license_name.text is None:
            continue
        if license_name.text not in TERMS:
            hint = license_name.hint(TERMS)
            report.warn(license_name, f"no terms of this licence are known, so none are checked{hint}")
            continue
        found = conflict(
            license_name.text,
            eu_domiciled=org["licensee_eu_domiciled"].text == "true",
            monthly_users=None if users is None else int(users),
        )
        if found is not None:
            report.warn(license_name, f"{found}: {then}")


def check_retirement(root: ConfigNode, report: ProblemReport, today: datetime.date) -> None:
    for _, deployment in root["deployments"].entries():
        retires_on, successor = deployment["retires_on"], deployment["successor"]
        if successor.exists and not retires_on.exists:
            report.warn(successor, "has no effect without retires_on")
        try:
            days = (datetime.date.fromisoformat(retires_on.text or "") - today).days
        except ValueError:
            continue
        named = f"its successor is {successor.quoted}" if successor.text else "it names no successor"
        if days < 0:
            report.warn(retires_on, f"is in the past, so this deployment is not used; {named}")
        elif days <= RETIREMENT_NOTICE_DAYS:
            report.warn(retires_on, f"is its last day, {days} days from now; {named}")


def check_past_days(root: ConfigNode, report: ProblemReport, today: datetime.date) -> None:
    """Warns of days that are over."""
    for pattern, then in (
        ("keys.*.expires_on", "so this key is refused"),
        *((f"{scope}.budgets.*.overrides.*.until", "so this override has no effect") for scope in _SCOPES),
    ):
        for node in root.find(pattern):
            try:
                is_past = datetime.date.fromisoformat(node.text or "") < today
            except ValueError:
                continue
            if is_past:
                report.warn(node, f"is in the past, {then}")


def check_addresses_are_bases(root: ConfigNode, report: ProblemReport) -> None:
    """A base_url is what comes before the endpoint's own path."""
    for pattern in ("deployments.*.base_url", "deployments.*.replicas.urls.*"):
        for node in root.find(pattern):
            path = (_path_of(node) or "").rstrip("/")
            ending = next((one for one in _ENDPOINTS if path.endswith(one)), None)
            if ending is not None:
                report.error(node, f"must be the base of the API: leave {ending} out")
    for _, deployment in root["deployments"].entries():
        base, provider = deployment["base_url"], deployment["provider"].text
        if provider == "openai" and _path_of(base) in ("", "/"):
            report.warn(base, "has no path: OpenAI's own is https://api.openai.com/v1")


def _path_of(url: ConfigNode) -> str | None:
    """The path of a URL; None where there is none, or one that cannot be read, which others report."""
    try:
        return urlsplit(url.text).path if url.text else None
    except ValueError:
        return None


def check_prices_are_per_million(root: ConfigNode, report: ProblemReport) -> None:
    """A price for a thousand tokens, or for one, is a common mistake, and then budgets never fill."""
    for node in root.find("deployments.*.price.output"):
        price = exact_number(node.text)
        if price is not None and 0 < price < _LEAST_OUTPUT_USD:
            report.warn(node, "is very low for USD per million tokens: is it per thousand?")


def check_all_is_used(root: ConfigNode, report: ProblemReport) -> None:
    """Warns of what nothing else of the file names, since a misspelt name leaves such a thing behind."""
    used = {node.text for node in root.find("models.*.use.*")}
    used |= {node.text for node in root.find("deployments.*.successor")}
    for name, deployment in root["deployments"].entries():
        # One that retires may stand there for its history only.
        if root["models"].exists and name not in used and not deployment["retires_on"].exists:
            report.warn(deployment, "no model uses it")
    charged = {node.text for node in (*root.find("keys.*.feature"), *root.find("keys.*.features.*"))}
    for name, feature in root["features"].entries():
        if root["keys"].exists and name not in charged:
            report.warn(feature, "no key may charge it")
    paying = {node.text for node in root.find("features.*.team")}
    for name, team in root["teams"].entries():
        if root["features"].exists and name not in paying:
            report.warn(team, "no feature has this team")


CHECKS: tuple[Check, ...] = (
    check_lists_are_distinct,
    check_destinations,
    check_tls,
    check_gpu_prices,
    check_work_weights,
    check_token_bounds,
    check_budgets,
    check_limits,
    check_secrets,
    check_licenses,
    check_addresses_are_bases,
    check_prices_are_per_million,
    check_all_is_used,
)
