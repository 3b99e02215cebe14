"""What lies in monitoring/: alerts that fire when they should, dashboards that Grafana's schema accepts, and no name
that `/metrics` does not have.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from ruamel.yaml import YAML

from appliance.metric_table import FAMILIES, PREFIX, Family, Kind
from monitoring import generate
from monitoring.panels import WIDTH
from tests.prometheus import filled_in

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules" / "appliance.yml"
CASES = MONITORING / "prometheus" / "tests" / "alerts.yml"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
PROVISIONING = MONITORING / "grafana" / "provisioning"
ALERTS = [
    *("Down", "NotReady", "LoopStuck", "InboxUnavailable", "InboxStuck", "JobStalled", "LossNotFinite"),
    *("LossDiverging", "ThroughputCollapse", "ClockDegraded", "ThermalThrottle", "MemoryLow", "MemoryGuardTripped"),
    *("DiskLow", "DiskWillFill", "JobFailed", "QueueWaiting", "HubPushFailing", "HubBlocked"),
]
# What Prometheus adds to every series, and the two families of its own.
SCRAPED = {"job", "instance"}
OTHERS = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}, "process_resident_memory_bytes": set()}
OTHERS |= {"process_cpu_seconds_total": set()}
SCHEMA = "13.2.3"
TYPESCRIPT = "7.0.2"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here; on Debian: apt-get install prometheus"
)


def yaml(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml(RULES)["groups"] for rule in group["rules"]]


def panels(path: Path) -> list[dict[str, Any]]:
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Every expression of dashboards and rules, and where it stands."""
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for group in yaml(generate.GRAFANA_RULES)["groups"]:
        for rule in group["rules"]:
            yield f"Grafana's {rule['title']}", rule["data"][0]["model"]["expr"]


def served_names() -> dict[str, Family]:
    """Every series name that `/metrics` has."""
    names = {}
    for family in FAMILIES:
        endings = ("_bucket", "_sum", "_count") if family.kind is Kind.HISTOGRAM else ("",)
        names |= {PREFIX + family.name + ending: family for ending in endings}
    return names


def labels_of(name: str) -> dict[str, tuple[str, ...]]:
    """The labels of a series with their closed values; empty: any value."""
    if name in OTHERS:
        return dict.fromkeys(SCRAPED | OTHERS[name], ())
    family = served_names()[name]
    bucket = {"le": ()} if name.endswith("_bucket") else {}
    return dict.fromkeys(SCRAPED, ()) | bucket | dict(family.labels)


def selectors(node: Any) -> Iterator[Any]:
    """Every selector below a node of a parsed expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("lhs", "rhs", "expr", "args", "vector_selector", "param"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from selectors(one)


def grouping_labels(node: Any) -> Iterator[tuple[Any, str]]:
    """Every label that an aggregation or a match names, with the node that it stands in."""
    modifier = getattr(node, "modifier", None)
    for place in (modifier, getattr(modifier, "matching", None)):
        labels = getattr(place, "labels", None)
        yield from ((node, label) for label in (labels if isinstance(labels, list) else []))
    for name in ("lhs", "rhs", "expr", "args", "param"):
        child = getattr(node, name, None)
        for one in child if isinstance(child, list) else [child]:
            if one is not None:
                yield from grouping_labels(one)


@pytest.mark.parametrize(("place", "expression"), [*expressions()])
def test_every_expression_names_only_metrics_and_labels_that_exist(place, expression):
    parsed = promql_parser.parse(filled_in(expression))
    found = list(selectors(parsed))
    assert found
    for selector in found:
        assert selector.name in served_names() or selector.name in OTHERS, f"{place}: no metric {selector.name}"
        known = labels_of(selector.name)
        for matcher in selector.matchers.matchers:
            assert matcher.name in known, f"{place}: {selector.name} has no label {matcher.name}"
            values = known[matcher.name]
            wanted = matcher.value.split("|") if values else []
            assert set(wanted) <= set(values), f"{place}: {matcher.name} is never {wanted}"
    for node, label in grouping_labels(parsed):
        for selector in selectors(node):
            assert label in labels_of(selector.name), f"{place}: {selector.name} has no label {label}"


def legends() -> Iterator[tuple[str, str, str]]:
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                if "{{" in target["legendFormat"]:
                    yield f"{path.name}: {panel['title']}", target["expr"], target["legendFormat"]


@pytest.mark.parametrize(("place", "expression", "legend"), [*legends()])
def test_every_legend_names_a_label_that_its_series_has(place, expression, legend):
    known = {
        label
        for selector in selectors(promql_parser.parse(filled_in(expression)))
        for label in labels_of(selector.name)
    }
    assert set(re.findall(r"{{(\w+)}}", legend)) <= known, place


def test_a_renamed_metric_would_be_noticed():
    names = {selector.name for _, e in expressions() for selector in selectors(promql_parser.parse(filled_in(e)))}
    assert "appliance_job_train_loss" in names
    assert len(names) > 60


def test_every_alert_that_was_promised_is_there_with_what_to_do():
    assert [rule["alert"] for rule in rules()] == ALERTS
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "action"}


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    cases = {case["name"]: case["promql_expr_test"][0] for case in yaml(CASES)["tests"]}
    assert set(cases) == {f"{alert} {word}" for alert in ALERTS for word in ("fires", "stays quiet")}
    for name, case in cases.items():
        assert f'alertname="{name.split()[0]}"' in case["expr"]
        assert bool(case["exp_samples"]) == name.endswith("fires")


@needs_promtool
def test_prometheus_accepts_configuration_and_rules_and_every_case_holds():
    for command in (
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules/appliance.yml"],
        ["test", "rules", "tests/alerts.yml"],
    ):
        said = subprocess.run(
            ["promtool", *command], cwd=MONITORING / "prometheus", capture_output=True, text=True, timeout=120
        )
        assert said.returncode == 0, said.stdout + said.stderr


def test_the_written_files_are_those_of_the_generator():
    for path, content in generate.files().items():
        assert path.read_text() == content, "write them anew: python -m monitoring.generate"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_has_title_unit_description_and_data(path):
    assert panels(path)
    for panel in panels(path):
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "prometheus"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_lies_over_another_or_beyond_the_edge(path):
    boxes = [(panel["title"], panel["gridPos"]) for panel in json.loads(path.read_text())["panels"]]
    for title, box in boxes:
        assert 0 <= box["x"] < box["x"] + box["w"] <= WIDTH, title
    for (one, a), (other, b) in combinations(boxes, 2):
        apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        apart |= a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert apart, (one, other)


def test_panels_and_dashboards_have_numbers_of_their_own():
    uids = [json.loads(path.read_text())["uid"] for path in DASHBOARDS]
    assert len(uids) == len(set(uids)) == 3
    for path in DASHBOARDS:
        numbers = [panel["id"] for panel in json.loads(path.read_text())["panels"]]
        assert len(numbers) == len(set(numbers))


def test_what_is_provisioned_fits_together():
    [source] = yaml(PROVISIONING / "datasources" / "prometheus.yaml")["datasources"]
    [point] = yaml(PROVISIONING / "alerting" / "contact_points.yaml")["contactPoints"]
    [policy] = yaml(PROVISIONING / "alerting" / "policies.yaml")["policies"]
    assert source["uid"] == "prometheus"
    assert policy["receiver"] == point["name"]
    assert point["receivers"][0]["settings"]["url"] == "${GRAFANA_ALERT_WEBHOOK}"
    [group] = yaml(generate.GRAFANA_RULES)["groups"]
    critical = [rule["alert"] for rule in rules() if rule["labels"]["severity"] == "critical"]
    assert [rule["title"] for rule in group["rules"]] == critical
    assert {"Down", "JobStalled", "MemoryGuardTripped", "DiskLow"} <= set(critical)
    for rule in group["rules"]:
        assert rule["condition"] in [step["refId"] for step in rule["data"]]
        assert "$value" not in json.dumps(rule["annotations"])


OPTIONS = {"timeseries": "timeseries", "stat": "stat", "heatmap": "heatmap", "table": "table"}


# JSON writes the members of a string enumeration as their values, which TypeScript does not take for them.
PLAIN = """
type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


def typescript() -> str:
    """A program that only type-checks when every dashboard has the form of Grafana's own types."""
    head = ["import type { Dashboard, Panel } from '@grafana/schema';", PLAIN]
    for kind in OPTIONS:
        module = f"./node_modules/@grafana/schema/dist/types/raw/composable/{kind}/panelcfg/x/types.gen"
        head.append(f"import type {{ Options as {kind}Options }} from '{module}';")
    body = []
    for path in DASHBOARDS:
        body.append(f"const {path.stem}: Plain<Dashboard> = {path.read_text()};")
        for panel in panels(path):
            name = f"{path.stem}{panel['id']}"
            body.append(f"const {name}: Plain<Partial<{panel['type']}Options>> = {json.dumps(panel['options'])};")
            body.append(f"const {name}panel: Plain<Panel> = {json.dumps(panel)};")
    return "\n".join([*head, *body, "export {};"])


@pytest.fixture(scope="module")
def grafana_types() -> Path:
    """Grafana's published types and a compiler, installed once below build/."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here; on Debian: apt-get install npm")
    folder = ROOT / "build" / "grafana-schema"
    if not (folder / "node_modules" / "@grafana" / "schema").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}')
        packages = [f"@grafana/schema@{SCHEMA}", f"typescript@{TYPESCRIPT}"]
        quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(["npm", "install", *quiet, *packages], cwd=folder, check=True, timeout=240)
    return folder


def type_check(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    source = folder / "check.ts"
    source.write_text(program)
    flags = ["--noEmit", "--strict", "--skipLibCheck", "--moduleResolution", "bundler", "--module", "esnext"]
    compiler = folder / "node_modules" / ".bin" / "tsc"
    return subprocess.run([compiler, *flags, source], cwd=folder, capture_output=True, text=True, timeout=240)


def test_the_dashboards_have_the_form_of_grafanas_own_types(grafana_types):
    said = type_check(grafana_types, typescript())
    assert said.returncode == 0, said.stdout[:4000]


def test_a_dashboard_of_another_form_would_be_noticed(grafana_types):
    wrong = typescript().replace('"graphTooltip": 1', '"graphTooltip": "one"', 1).replace('"textMode"', '"txtMode"')
    said = type_check(grafana_types, wrong)
    assert said.returncode != 0
    assert "graphTooltip" in said.stdout or "string" in said.stdout
    assert "txtMode" in said.stdout
