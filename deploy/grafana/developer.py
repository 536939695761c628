"""How a feature does: errors, time to the first token, tokens."""

from panels import FEATURE, Dashboard, Panel, Query, Row, quantiles

DEVELOPER = Dashboard(
    uid="tollway-developer",
    title="Tollway: developers",
    description="How your feature does: errors, time to the first token, tokens. Pick it above.",
    variables=(("feature", "tollway_requests_total"),),
    rows=(
        Row(
            "Requests and errors",
            (
                Panel(
                    "Requests by outcome",
                    "Each request once. `refused` got an error of the gateway; the panel beside it says which kinds.",
                    "reqps",
                    (
                        Query(
                            f"sum by (outcome) (rate(tollway_requests_total{{{FEATURE}}}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Errors by code, all features",
                    "The `code` in the error envelope, as the client library shows it.",
                    "reqps",
                    (Query("sum by (code) (rate(tollway_refusals_total[$__rate_interval]))", "{{code}}"),),
                ),
                Panel(
                    "Succeeded",
                    "Share of your requests that were answered in full, refused ones included in all.",
                    "percentunit",
                    (
                        Query(
                            f'sum(rate(tollway_requests_total{{{FEATURE}, outcome="success"}}[$__rate_interval])) / '
                            f"(sum(rate(tollway_requests_total{{{FEATURE}}}[$__rate_interval])) > 0)",
                            "succeeded",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Speed, by deployment",
            (
                Panel(
                    "Time to first token",
                    "Streams: from the dispatch to the first token, of all features.",
                    "s",
                    quantiles("tollway_time_to_first_token_seconds", "deployment", ""),
                ),
                Panel(
                    "Time between tokens",
                    "Streams, one value a stream: the mean time between two tokens.",
                    "s",
                    quantiles("tollway_inter_token_seconds", "deployment", ""),
                ),
                Panel(
                    "Whole request",
                    "From arrival to the end, failed attempts included.",
                    "s",
                    quantiles("tollway_request_duration_seconds", "deployment", ""),
                ),
            ),
        ),
        Row(
            "Tokens and cost",
            (
                Panel(
                    "Tokens a second",
                    "By type: `cached_input` is the part of the prompt that the upstream knew already and sells cheaper.",
                    "none",
                    (
                        Query(
                            f"sum by (type, modality) (rate(tollway_tokens_total{{{FEATURE}}}[$__rate_interval]))",
                            "{{type}} {{modality}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Tokens so far",
                    "All attempts since the gateways started, by deployment and type.",
                    "short",
                    (
                        Query(
                            f"sum by (deployment, type) (tollway_tokens_total{{{FEATURE}}})",
                            "{{deployment}} {{type}}",
                        ),
                    ),
                    kind="bargauge",
                    now=True,
                ),
                Panel(
                    "Cost so far",
                    "All attempts since the gateways started, at each deployment's price.",
                    "currencyUSD",
                    (Query(f"sum by (deployment) (tollway_cost_usd_total{{{FEATURE}}})", "{{deployment}}"),),
                    kind="bargauge",
                    now=True,
                    decimals=4,
                ),
            ),
        ),
    ),
)
