"""Is it up, where do requests go, what is refused, what is slow."""

from panels import BAD_WHEN_ZERO, DEPLOYMENT, Dashboard, Panel, Query, Row, quantiles

OPS = Dashboard(
    uid="tollway-ops",
    title="Tollway: operations",
    description="Is it up, where do requests go, what is refused, what is slow.",
    variables=(("deployment", "tollway_attempts_total"),),
    rows=(
        Row(
            "At a glance",
            (
                Panel(
                    "Gateways up",
                    "Gateways that Prometheus can scrape.",
                    "none",
                    (Query('sum(up{job=~"tollway.*"})', "up"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                    thresholds=BAD_WHEN_ZERO,
                ),
                Panel(
                    "Requests",
                    "Answered and refused ones, all gateways.",
                    "reqps",
                    (Query("sum(rate(tollway_requests_total[$__rate_interval]))", "requests"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                ),
                Panel(
                    "Failed",
                    "Requests that failed after retries and failover; refusals by limits, budgets and policies do not count.",
                    "percentunit",
                    (Query("tollway:failed_requests_ratio:5m", "failed"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                    thresholds=((0.01, "orange"), (0.05, "red")),
                ),
                Panel(
                    "Ledger takes records",
                    "1 while every gateway's usage records find their way into the ledger.",
                    "bool_yes_no",
                    (Query("min(tollway_ledger_writable)", "writable"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                    thresholds=BAD_WHEN_ZERO,
                ),
                Panel(
                    "Configuration in force",
                    "1 while every gateway serves what its file says.",
                    "bool_yes_no",
                    (Query("min(tollway_config_last_reload_successful)", "in force"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                    thresholds=BAD_WHEN_ZERO,
                ),
                Panel(
                    "Days until retirement",
                    "Until the `retires_on` of each deployment that has one.",
                    "d",
                    (Query("min by (deployment) (tollway_deployment_retires_in_days)", "{{deployment}}"),),
                    kind="stat",
                    now=True,
                    width=4,
                    height=4,
                    decimals=0,
                    thresholds=((0, "orange"), (60, "green")),
                ),
            ),
        ),
        Row(
            "Routing",
            (
                Panel(
                    "Where requests go, and why",
                    "The deployment that the plan puts first, with the reason: a rule, the objective, or the only "
                    "one left and by which constraint.",
                    "reqps",
                    (
                        Query(
                            f"sum by (model, deployment, reason) (rate(tollway_route_decisions_total{{{DEPLOYMENT}}}"
                            "[$__rate_interval]))",
                            "{{model}} to {{deployment}}: {{reason}}",
                        ),
                    ),
                    width=12,
                    stacked=True,
                ),
                Panel(
                    "Attempts by outcome",
                    "Every dispatch to an upstream, retries and failovers included.",
                    "reqps",
                    (
                        Query(
                            f"sum by (deployment, outcome) (rate(tollway_attempts_total{{{DEPLOYMENT}}}"
                            "[$__rate_interval]))",
                            "{{deployment}} {{outcome}}",
                        ),
                    ),
                    width=12,
                    stacked=True,
                ),
            ),
        ),
        Row(
            "Refusals and limits",
            (
                Panel(
                    "Refusals by code",
                    "Error envelopes; `privacy_policy_violation` is what may not leave, `insufficient_quota` a budget.",
                    "reqps",
                    (Query("sum by (code) (rate(tollway_refusals_total[$__rate_interval]))", "{{code}}"),),
                    stacked=True,
                ),
                Panel(
                    "Refused by a limit or budget",
                    "By the kind of holder. `upstream` is the upstream's own 429.",
                    "reqps",
                    (
                        Query(
                            "sum by (scope, limit) (rate(tollway_limit_rejections_total[$__rate_interval]))",
                            "{{scope}} {{limit}}",
                        ),
                    ),
                ),
                Panel(
                    "Held in budgets",
                    "Reserved by requests in flight. What stays here without traffic is a hold that was not given back.",
                    "currencyUSD",
                    (
                        Query(
                            "max by (scope, name, window) (tollway_budget_held_usd)",
                            "{{scope}} {{name}}, {{window}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Latency",
            (
                Panel(
                    "Whole requests",
                    "From the arrival of the request to its end, failed attempts included; refused ones are not in it.",
                    "s",
                    quantiles("tollway_request_duration_seconds", "deployment", DEPLOYMENT),
                ),
                Panel(
                    "First token",
                    "Streams: from the dispatch to the first token.",
                    "s",
                    quantiles("tollway_time_to_first_token_seconds", "deployment", DEPLOYMENT),
                ),
                Panel(
                    "Added by the gateway",
                    "From arrival to the first dispatch: body, authentication, policy, limits. Slow uploads count.",
                    "s",
                    (
                        Query(
                            "histogram_quantile(0.5, sum by (le) (rate(tollway_overhead_seconds_bucket[$__rate_interval])))",
                            "median",
                        ),
                        Query(
                            "histogram_quantile(0.99, sum by (le) (rate(tollway_overhead_seconds_bucket[$__rate_interval])))",
                            "99 %",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Pool",
            (
                Panel(
                    "Replicas up",
                    "1 when every gateway may send there: probe well, breaker closed.",
                    "bool_yes_no",
                    (
                        Query(
                            f"min by (deployment, replica) (tollway_replica_up{{{DEPLOYMENT}}})",
                            "{{deployment}} {{replica}}",
                        ),
                    ),
                    kind="bargauge",
                    now=True,
                    thresholds=BAD_WHEN_ZERO,
                ),
                Panel(
                    "Replicas full",
                    "Share of the latest five minutes in which the replica said to be full. It is well meanwhile.",
                    "percentunit",
                    (
                        Query(
                            f"max by (deployment, replica) "
                            f"(avg_over_time(tollway_replica_busy{{{DEPLOYMENT}}}[5m]))",
                            "{{deployment}} {{replica}}",
                        ),
                    ),
                ),
                Panel(
                    "In flight by replica",
                    "Attempts under way, of all gateways.",
                    "none",
                    (
                        Query(
                            f"sum by (deployment, replica) (tollway_replica_inflight{{{DEPLOYMENT}}})",
                            "{{deployment}} {{replica}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "GPUs booked",
                    "GPU-seconds provisioned a second, that is GPUs, busy or not.",
                    "none",
                    (
                        Query(
                            f"sum by (deployment) (rate(tollway_pool_gpu_seconds_total{{{DEPLOYMENT}}}[$__rate_interval]))",
                            "{{deployment}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Gateways and workers",
            (
                Panel(
                    "Records that wait for the ledger",
                    "Rows not yet committed. It should fall back to zero between bursts.",
                    "none",
                    (Query("sum by (instance) (tollway_ledger_lag_rows)", "{{instance}}"),),
                    width=4,
                ),
                Panel(
                    "Ledger commits, 95th percentile",
                    "How long a commit to the ledger's database takes.",
                    "s",
                    (
                        Query(
                            "histogram_quantile(0.95, sum by (le, instance) "
                            "(rate(tollway_ledger_commit_seconds_bucket[$__rate_interval])))",
                            "{{instance}}",
                        ),
                    ),
                    width=5,
                ),
                Panel(
                    "Workers up",
                    "With `--workers`: workers that take requests.",
                    "none",
                    (Query("sum by (instance) (tollway_worker_up)", "{{instance}}"),),
                    width=5,
                ),
                Panel(
                    "Worker restarts",
                    "With `--workers`: times that a worker was started again, since the gateway started.",
                    "none",
                    (
                        Query(
                            "sum by (instance, worker) (tollway_worker_restarts_total)",
                            "{{instance}} {{worker}}",
                        ),
                    ),
                    width=5,
                ),
                Panel(
                    "CPU",
                    "Cores in use by each gateway, all its workers.",
                    "none",
                    (
                        Query(
                            'sum by (instance) (rate(process_cpu_seconds_total{job=~"tollway.*"}[$__rate_interval]))',
                            "{{instance}}",
                        ),
                    ),
                    width=5,
                    decimals=2,
                ),
            ),
        ),
    ),
)
