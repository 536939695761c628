"""Schema of who asks and who pays: `org`, `teams`, `features`, `keys`, and the `policy_tests`."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.catalogue import Capability, Modality
from gateway.config.detectors import Media
from gateway.config.kinds import (
    AllowBlank,
    BudgetUsd,
    Count,
    Date,
    Flag,
    LocalTime,
    Name,
    Percent,
    Secret,
    Section,
    Share,
    Text,
    TimeZone,
)
from gateway.config.urls import WebhookUrl

Per = Literal["minute", "hour", "day", "week", "month", "lifetime"]
Priority = Literal["interactive", "batch"]


class Override(Section):
    usd: BudgetUsd = Field(description="limit that holds instead, USD")
    until: Date = Field(description="last day on which it holds, in `org.timezone`")


class Budget(Section):
    usd: BudgetUsd = Field(description="most that may be spent in a window, USD")
    per: Per = Field(description="window, aligned to the calendar in `org.timezone`")
    rolling: Flag = Field(
        default=False, description="the window is the time just gone, a month being 30 days"
    )
    soft: Flag = Field(default=False, description="only alert, never refuse")
    alert_at: tuple[Percent, ...] = Field(
        default=(), description="percentages of the limit at which to alert"
    )
    webhook: WebhookUrl | None = Field(
        default=None, description="URL to which each alert is sent by POST; all of it is a secret"
    )
    overrides: tuple[Override, ...] = Field(
        default=(), description="other limits for a time; of several in force the last one counts"
    )


class Limits(Section):
    requests_per_minute: Count | None = Field(default=None, description="most requests a minute")
    tokens_per_minute: Count | None = Field(
        default=None, description="most tokens a minute, prompt and output cap"
    )
    estimate: Literal["maximum", "typical"] = Field(
        default="maximum",
        description="what tokens_per_minute holds of an answer under way: its output cap, or what 99 of 100 "
        "answers of the feature and model have needed; what is used beyond is a debt",
    )
    concurrent: Count | None = Field(default=None, description="most requests at the same time")
    shadow: Flag = Field(default=False, description="only count what would have been refused")


class Payer(Section):
    """What every scope has: budgets, all of which hold, and limits."""

    budgets: tuple[Budget, ...] = Field(default=(), description="budgets, at most one for each window")
    limits: Limits = Field(default=Limits(), description="rate limits")


class Org(Payer):
    name: Name = Field(default="org", description="name in metrics, reports and the ledger")
    timezone: TimeZone = Field(default="UTC", description="IANA zone in which days, weeks and months begin")
    licensee_eu_domiciled: Flag | None = Field(
        default=None, description="whether the licensee sits in the EU, for licences that ask"
    )
    monthly_users: Count | None = Field(
        default=None, description="monthly active users, for licences that ask"
    )
    license_conflicts: Literal["warn", "forbid"] = Field(
        default="warn",
        description="where a licence withholds its rights: only warn at load, or never use the deployment",
    )


class Team(Payer):
    pass


class Feature(Payer):
    team: Name = Field(description="team that pays, one of `teams`")
    privacy: Name | None = Field(
        default=None, description="least class of its requests; left out: privacy.default"
    )
    detect: Annotated[dict[Name, Flag], AllowBlank] = Field(
        default={}, description="detectors that are switched on (true) or off (false) for it"
    )
    media: Media = Field(default=Media(), description="as `privacy.media`, for this feature")
    entities: Flag | None = Field(
        default=None, description="whether `privacy.entities` is for it; left out: as its `by_default`"
    )
    mask: tuple[Name, ...] = Field(
        default=(),
        description="detectors whose finds are replaced before a request leaves, and restored in the answer",
    )
    capture: Flag = Field(default=False, description="keep prompts and outputs of this feature")
    priority: Priority = Field(
        default="interactive",
        description="who is refused first when a worker has too much to do: `batch` before `interactive`",
    )


class Key(Payer):
    secret: Secret = Field(description="what the client sends as its bearer token")
    feature: Name = Field(description="feature that is charged, one of `features`")
    features: tuple[Name, ...] = Field(
        default=(), description="further features that it may name in x-tollway-feature"
    )
    models: tuple[Name, ...] | None = Field(
        default=None, description="models that it may use; left out: all", min_length=1
    )
    privacy: Name | None = Field(default=None, description="least class of its requests")
    expires_on: Date | None = Field(default=None, description="last day on which it works, in `org.timezone`")
    priority: Priority | None = Field(
        default=None, description="as `features.*.priority`, for this key; left out: as its feature"
    )


class SampleRequest(Section):
    """The facts that a decision depends on."""

    model: Name = Field(description="model that the client names")
    feature: Name | None = Field(default=None, description="feature that is charged")
    key: Name | None = Field(default=None, description="key that is used")
    privacy: Name | None = Field(default=None, description="class that the client asks for")
    text: Text | None = Field(default=None, description="prompt, for the detectors")
    modalities: tuple[Modality, ...] = Field(
        default=("text",), description="modalities of the input", min_length=1
    )
    needs: tuple[Capability, ...] = Field(default=(), description="capabilities that it asks for")
    stream: Flag = Field(default=False, description="whether it streams")
    prompt_tokens: Count | None = Field(default=None, description="length of the prompt, tokens")
    max_output_tokens: Count | None = Field(default=None, description="cap on the output, tokens")
    tags: Annotated[dict[Name, Text], AllowBlank] = Field(default={}, description="tags of the request")
    session: Text | None = Field(default=None, description="x-tollway-session of the request")
    user: Text | None = Field(default=None, description="user that the client names")
    at: LocalTime | None = Field(
        default=None, description="when it is sent, in `org.timezone`; left out: now"
    )
    budget_used: Share = Field(
        default=Decimal(0), description="share that is used of the fullest budget, 1 being all of it"
    )
    outstanding: Annotated[dict[Name, Count], AllowBlank] = Field(
        default={}, description="requests under way at deployments"
    )
    down: tuple[Name, ...] = Field(default=(), description="deployments of which no replica is available")


class Expectation(Section):
    """What must come out; everything given must hold."""

    deployment: Name | None = Field(default=None, description="deployment that is tried first")
    order: tuple[Name, ...] | None = Field(
        default=None, description="all candidates in order; an empty list for none"
    )
    never: tuple[Name, ...] = Field(
        default=(), description="deployments that must not be among the candidates"
    )
    privacy: Name | None = Field(default=None, description="class that the request ends up with")
    zone: Name | None = Field(default=None, description="zone of every candidate")
    refused: Text | None = Field(default=None, description="error code, such as privacy_policy_violation")


class PolicyTest(Section):
    name: Text = Field(description="what the test says, in words")
    request: SampleRequest = Field(description="the request")
    expect: Expectation = Field(description="the decision that must come out")
