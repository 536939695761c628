"""What each feature costs, on both sides, and how long budgets last."""

from panels import FEATURE, Dashboard, Panel, Query, Row

FINANCE = Dashboard(
    uid="tollway-finance",
    title="Tollway: finance",
    description="What each feature costs, on both sides, and how long budgets last. Never bill from Prometheus: "
    "`tollway usage` reads the ledger, which is the truth.",
    since="now-7d",
    variables=(("feature", "tollway_cost_usd_total"),),
    rows=(
        Row(
            "Cost per feature",
            (
                Panel(
                    "Cost counted so far",
                    "Cost of all attempts since the gateways started, to the nano-dollar; equal to the ledger's sum "
                    "of the same time. Local deployments count at their transfer price.",
                    "currencyUSD",
                    (Query(f"sum by (feature) (tollway_cost_usd_total{{{FEATURE}}})", "{{feature}}"),),
                    kind="bargauge",
                    now=True,
                    decimals=2,
                ),
                Panel(
                    "Cost an hour by feature",
                    "Spending at this moment's pace, in USD an hour.",
                    "currencyUSD",
                    (
                        Query(
                            f"sum by (feature) (rate(tollway_cost_usd_total{{{FEATURE}}}[$__rate_interval])) * 3600",
                            "{{feature}}",
                        ),
                    ),
                    width=16,
                    stacked=True,
                ),
                Panel(
                    "Cost in the time shown",
                    "By feature and team, extrapolated to the edges of the time shown: close, not exact.",
                    "currencyUSD",
                    (
                        Query(
                            f"sum by (feature, team) (increase(tollway_cost_usd_total{{{FEATURE}}}[$__range]))",
                            "{{feature}} of {{team}}",
                        ),
                    ),
                    kind="table",
                    now=True,
                    decimals=4,
                    width=12,
                ),
                Panel(
                    "Cost of a request",
                    "Mean cost of an answered request by feature.",
                    "currencyUSD",
                    (
                        Query(
                            f"sum by (feature) (tollway_cost_usd_total{{{FEATURE}}}) / "
                            f'sum by (feature) (tollway_requests_total{{{FEATURE}, outcome!="refused"}})',
                            "{{feature}}",
                        ),
                    ),
                    kind="bargauge",
                    now=True,
                    decimals=6,
                    width=12,
                ),
            ),
        ),
        Row(
            "Both sides",
            (
                Panel(
                    "Cost by deployment",
                    "Cost of all attempts since the gateways started, at each deployment's price.",
                    "currencyUSD",
                    (Query("sum by (deployment) (tollway_cost_usd_total)", "{{deployment}}"),),
                    kind="bargauge",
                    now=True,
                    decimals=2,
                ),
                Panel(
                    "What the other side would have cost",
                    "For requests answered elsewhere whose model names this deployment too, with the same token "
                    "counts, since the gateways started.",
                    "currencyUSD",
                    (
                        Query(
                            f"sum by (feature, deployment) (tollway_counterfactual_cost_usd_total{{{FEATURE}}})",
                            "{{feature}} on {{deployment}}",
                        ),
                    ),
                    kind="bargauge",
                    now=True,
                    decimals=2,
                ),
                Panel(
                    "Pools: what was booked",
                    "GPUs and overhead of each pool, idle included, since the gateways started.",
                    "currencyUSD",
                    (Query("sum by (deployment) (tollway_pool_cost_usd_total)", "{{deployment}}"),),
                    kind="bargauge",
                    now=True,
                    decimals=2,
                ),
                Panel(
                    "Break-even: USD per million tokens",
                    "What a token really costs: pools by the GPUs of the latest hour, priced deployments by what was "
                    "paid. Where a pool's line is below, it is the cheaper side at this load.",
                    "currencyUSD",
                    (
                        Query(
                            "max by (deployment) (tollway_pool_effective_usd_per_million_tokens)",
                            "{{deployment}}, fully loaded",
                        ),
                        Query(
                            "1e6 * sum by (deployment) (tollway_cost_usd_total) "
                            "/ sum by (deployment) (tollway_tokens_total)",
                            "{{deployment}}, at its price",
                        ),
                    ),
                    width=16,
                    decimals=2,
                ),
                Panel(
                    "Pool utilisation",
                    "Weighted tokens of the latest hour by what the pool can serve. Above 1 "
                    "`saturation_tokens_per_second` is set too low.",
                    "percentunit",
                    (Query("max by (deployment) (tollway_pool_utilisation_ratio)", "{{deployment}}"),),
                ),
            ),
        ),
        Row(
            "Budgets",
            (
                Panel(
                    "Left of each budget",
                    "Limit less what is spent, held and set aside, in the window that is open.",
                    "currencyUSD",
                    (Query("budget:limit_usd - budget:used_usd", "{{scope}} {{name}}, {{window}}"),),
                    width=12,
                ),
                Panel(
                    "Burn rate",
                    "1 spends exactly the limit in one window, 2 is through after half of it. Of the latest hour.",
                    "none",
                    (Query("budget:burn_ratio:1h", "{{scope}} {{name}}, {{window}}"),),
                    width=12,
                    decimals=2,
                    thresholds=((1, "orange"), (6, "red")),
                ),
                Panel(
                    "Used",
                    "Share of the limit that is spent, held or set aside.",
                    "percentunit",
                    (Query("budget:used_ratio", "{{scope}} {{name}}, {{window}}"),),
                    kind="bargauge",
                    now=True,
                    width=12,
                    thresholds=((0.8, "orange"), (1.0, "red")),
                ),
                Panel(
                    "Lasts for",
                    "Until the budget is used up at the spending of the latest hour; nothing where nobody spends.",
                    "s",
                    (Query("budget:left_seconds", "{{scope}} {{name}}, {{window}}"),),
                    kind="bargauge",
                    now=True,
                    width=12,
                ),
            ),
        ),
    ),
)
