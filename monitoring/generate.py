"""`python -m monitoring.generate`: writes the Grafana dashboards, and the Grafana copies of the critical alerts.

The dashboards are described in `overview`, `job` and `machine`, a panel a few lines. The alerts are those of
prometheus/rules/appliance.yml, so that the two cannot differ. A test keeps the written files the same as this.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from monitoring.job import CHOOSE_JOB, JOB
from monitoring.machine import MACHINE
from monitoring.overview import OVERVIEW
from monitoring.panels import dashboard

HERE = Path(__file__).parent
DASHBOARDS = HERE / "grafana" / "dashboards"
RULES = HERE / "prometheus" / "rules" / "appliance.yml"
GRAFANA_RULES = HERE / "grafana" / "provisioning" / "alerting" / "rules.yaml"


def dashboards() -> dict[str, dict[str, Any]]:
    """Every dashboard by the name of its file."""
    return {
        "overview.json": dashboard("appliance-overview", "Overview", OVERVIEW),
        "job.json": dashboard("appliance-job", "Job", JOB, [CHOOSE_JOB]),
        "machine.json": dashboard("appliance-machine", "Machine", MACHINE),
    }


def must_have() -> Iterator[str]:
    """Expressions that have data while a working appliance trains."""
    for rows in (OVERVIEW, JOB, MACHINE):
        for row in rows:
            for panel in row.panels:
                if panel.must:
                    yield panel.queries[0][0]


def grafana_rules() -> dict[str, Any]:
    """The critical alerts as rules of Grafana's own, for when nobody has an Alertmanager."""
    groups = YAML(typ="safe").load(RULES.read_text())["groups"]
    critical = [rule for group in groups for rule in group["rules"] if rule["labels"]["severity"] == "critical"]
    group = {"orgId": 1, "name": "appliance", "folder": "Appliance", "interval": "1m"}
    return {"apiVersion": 1, "groups": [group | {"rules": [grafana_rule(rule) for rule in critical]}]}


def grafana_rule(rule: dict[str, Any]) -> dict[str, Any]:
    # Whatever the value of a series is, that it is there means the alert: `group` makes it 1 and keeps its labels.
    query = {"refId": "A", "expr": f"group without () ({rule['expr']})", "instant": True, "range": False}
    threshold = {
        "refId": "B",
        "type": "threshold",
        "expression": "A",
        "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
    }
    return {
        "uid": f"appliance-{rule['alert'].lower()}",
        "title": rule["alert"],
        "condition": "B",
        "data": [
            {"refId": "A", "datasourceUid": "prometheus", "relativeTimeRange": {"from": 600, "to": 0}, "model": query},
            {"refId": "B", "datasourceUid": "__expr__", "model": threshold},
        ],
        # No series is what a quiet rule gives; an error means that Prometheus itself does not answer.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": rule.get("for", "0s"),
        "labels": dict(rule["labels"]),
        "annotations": {name: grafana_text(text) for name, text in rule["annotations"].items()},
    }


def grafana_text(text: str) -> str:
    """Grafana knows the value of a rule by its letter, and here that is always 1: the text goes without it."""
    return text.replace(" for {{ $value | humanizeDuration }}", "")


def files() -> dict[Path, str]:
    """Everything that is generated, by its path."""
    written = {DASHBOARDS / name: json.dumps(content, indent=2) + "\n" for name, content in dashboards().items()}
    head = "# Written by monitoring/generate.py from prometheus/rules/appliance.yml.\n"
    return written | {GRAFANA_RULES: head + json.dumps(grafana_rules(), indent=2) + "\n"}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content)
