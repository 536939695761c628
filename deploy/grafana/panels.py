"""Dashboards in Grafana's JSON, from a few words for each panel. Every panel has a unit and a description."""

from typing import Any, Literal, NamedTuple

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "bargauge", "table"]

WIDTH = 24
# What the variables of a dashboard choose from.
FEATURE = 'feature=~"$feature"'
DEPLOYMENT = 'deployment=~"$deployment"'
BAD_WHEN_ZERO = ((0, "red"), (1, "green"))
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """A PromQL expression, and what its series are called: `{{label}}` stands for a label's value."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """`unit` is a name of Grafana's. `thresholds` colour what is reached: (value, colour), ascending.

    `now` asks for one moment, at the end of the time range, where a line over time says nothing.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    now: bool = False
    stacked: bool = False
    decimals: int | None = None
    thresholds: tuple[tuple[float, str], ...] = ()


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


class Dashboard(NamedTuple):
    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    variables: tuple[tuple[str, str], ...] = ()  # a name, and the metric whose label of that name is offered
    since: str = "now-6h"


def quantiles(metric: str, by: str, where: str) -> tuple[Query, ...]:
    """Median, 95th and 99th of a histogram."""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{where}}}[$__rate_interval])))",
            f"{{{{{by}}}}} {name}",
        )
        for share, name in (("0.5", "median"), ("0.95", "95 %"), ("0.99", "99 %"))
    )


def rendered(dashboard: Dashboard) -> Json:
    """As Grafana keeps a dashboard."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["tollway"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": dashboard.since, "to": "now"},
        "timezone": "",
        "templating": {"list": [_datasource(), *(_variable(*one) for one in dashboard.variables)]},
        "panels": _laid_out(dashboard.rows),
    }


def _datasource() -> Json:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(name: str, metric: str) -> Json:
    return {
        "name": name,
        "label": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({metric}, {name})", "refId": name},
        "definition": f"label_values({metric}, {name})",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _laid_out(rows: tuple[Row, ...]) -> list[Json]:
    """Panels from left to right, and down when a line is full. Ids count from 1."""
    found: list[Json] = []
    top = 0
    for row in rows:
        found.append(_row(row.title, len(found) + 1, top))
        left, top, tallest = 0, top + 1, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            found.append(_panel(panel, len(found) + 1, place))
            left, tallest = left + panel.width, max(tallest, panel.height)
        top += tallest
    return found


def _row(title: str, number: int, top: int) -> Json:
    place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, place: Json) -> Json:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel.kind),
        "targets": [
            _target(panel, letter, query) for letter, query in zip("ABCDEF", panel.queries, strict=False)
        ],
    }


def _defaults(panel: Panel) -> Json:
    steps = [{"value": None, "color": "green"}, *({"value": at, "color": c} for at, c in panel.thresholds)]
    defaults: Json = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none", "group": "A"}
        defaults["custom"] = {"stacking": stacking, "fillOpacity": 20 if panel.stacked else 0, "lineWidth": 1}
        # A line over time starts at zero, or small changes look large.
        defaults["min"] = 0
    return defaults


def _options(kind: Kind) -> Json:
    last = {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}}
    if kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind == "table":
        return {"showHeader": True}
    return last | ({"orientation": "horizontal", "displayMode": "basic"} if kind == "bargauge" else {})


def _target(panel: Panel, letter: str, query: Query) -> Json:
    return {
        "refId": letter,
        "datasource": _SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "instant": panel.now,
        "range": not panel.now,
        "format": "table" if panel.kind == "table" else "time_series",
    }
