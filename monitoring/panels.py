"""The panels that the dashboards are made of, and how they are laid out: in the order they stand in."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "prometheus"}
# The first schema of the classic model that Grafana 11 and later load without migrating.
SCHEMA_VERSION = 41
WIDTH = 24
# Long enough for a rate, whatever the time shown.
RATE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are pairs of expression and legend; `must` says that a working appliance has data for it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    description: str
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    must: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    custom: dict[str, Any] = field(default_factory=dict)
    format: str = "time_series"


@dataclass(frozen=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


Rows = tuple[Row, ...]


def stat(
    title: str,
    expr: str,
    description: str,
    unit: str = "short",
    *,
    legend: str = "",
    width: int = 4,
    height: int = 4,
    options: Mapping[str, Any] | None = None,
    **more: Any,
) -> Panel:
    """A number."""
    everything = {
        "reduceOptions": {"calcs": ["lastNotNull"], "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "textMode": "auto",
        "wideLayout": True,
        "showPercentChange": False,
        "percentChangeColorMode": "standard",
        **(options or {}),
    }
    return Panel(title, ((expr, legend),), description, unit, "stat", width, height, options=everything, **more)


def word(title: str, expr: str, description: str, label: str, **more: Any) -> Panel:
    """What stands in a label of a series."""
    options = {"textMode": "name", "graphMode": "none"}
    return stat(title, expr, description, legend=f"{{{{{label}}}}}", options=options, **more)


def since(title: str, timestamp: str, description: str, **more: Any) -> Panel:
    """How long ago something was; nothing where it never was."""
    return stat(title, f"time() - ({timestamp} > 0)", description, "s", **more)


def lines(
    title: str, description: str, unit: str, *queries: tuple[str, str], from_zero: bool = False, **more: Any
) -> Panel:
    """Curves over time."""
    if from_zero:
        more["defaults"] = {"min": 0}
    options = {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return Panel(title, queries, description, unit, "timeseries", options=options, **more)


# Memory in use and the floors, for `lines`.
MEMORY_LINES = (
    ("appliance_memory_total_bytes - appliance_memory_available_bytes", "in use"),
    ("appliance_memory_total_bytes - on (instance) group_right () appliance_memory_guard_bytes", "{{floor}} floor"),
    ("appliance_memory_total_bytes", "all"),
)


def heat(title: str, description: str, unit: str, expr: str, **more: Any) -> Panel:
    """Where the values of a histogram lie over time."""
    options = {
        "calculate": False,
        "yAxis": {"unit": unit, "axisPlacement": "left"},
        "color": {
            "mode": "scheme",
            "scheme": "Oranges",
            "exponent": 0.5,
            "steps": 64,
            "fill": "dark-orange",
            "reverse": False,
            "scale": "exponential",
        },
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": False, "showColorScale": False},
        "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
    }
    return Panel(title, ((expr, "{{le}}"),), description, unit, "heatmap", options=options, format="heatmap", **more)


def table(title: str, expr: str, description: str, **more: Any) -> Panel:
    """The labels of series, one a line."""
    options = {"showHeader": True, "cellHeight": "sm"}
    return Panel(title, ((expr, ""),), description, "short", "table", options=options, format="table", **more)


def dashboard(uid: str, title: str, rows: Rows, variables: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A dashboard of Grafana's classic model."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["appliance"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables or []},
        "annotations": {"list": []},
        "links": [
            {
                "title": "Appliance",
                "type": "dashboards",
                "tags": ["appliance"],
                "asDropdown": False,
                "icon": "external link",
                "includeVars": False,
                "keepTime": True,
                "targetBlank": False,
                "tooltip": "",
                "url": "",
            }
        ],
        "panels": list(laid_out(rows)),
    }


def laid_out(rows: Rows) -> Iterator[dict[str, Any]]:
    """Rows and panels from left to right and from top to bottom."""
    top, number = 0, 0
    for row in rows:
        number += 1
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "panels": [], "gridPos": place}
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            number += 1
            if left + panel.width > WIDTH:
                top, left, height = top + height, 0, 0
            yield drawn(panel, number, {"h": panel.height, "w": panel.width, "x": left, "y": top})
            left, height = left + panel.width, max(height, panel.height)
        top += height


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 2, "fillOpacity": 8, "showPoints": "auto", "spanNulls": 60000}
    if panel.kind != "timeseries":
        custom = {}
    defaults = {"unit": panel.unit, "custom": custom | panel.custom} | panel.defaults
    if panel.kind == "stat":
        defaults["color"] = {"mode": "fixed", "fixedColor": "text"}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": panel.options,
        "targets": [target(query, panel, index) for index, query in enumerate(panel.queries)],
    }


def target(query: tuple[str, str], panel: Panel, index: int) -> dict[str, Any]:
    expr, legend = query
    instant = panel.kind in ("stat", "table") and panel.options.get("graphMode") != "area"
    return {
        "refId": "ABCDEFGH"[index],
        "datasource": DATASOURCE,
        "expr": expr,
        "legendFormat": legend or "__auto",
        "format": panel.format,
        "instant": instant,
        "range": not instant,
        "editorMode": "code",
    }
