"""`appliance doctor` and the Hub: what it says of tokens, roles, organisation, endpoint and clock."""

import pytest

from appliance.doctor import hub as doctor
from appliance.doctor.finding import Finding, Level
from appliance.doctor.hub import check_hub, write_findings
from appliance.hub.who import read_who
from appliance.settings import Settings
from tests.local_hub import LocalHub, serve
from tests.published import ORG, READ, WRITE


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    with serve() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
        yield hub


def look(**values: str | None) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_hub(Settings(**values))}


def level(finding: Finding) -> str:
    return finding.level.value


def test_without_an_organisation_it_asks_only_whether_the_hub_is_there(hub: LocalHub):
    findings = look()
    assert {check: level(finding) for check, finding in findings.items()} == {"hub": "ok", "hub-endpoint": "ok"}
    assert [(asked.path.partition("?")[0], asked.token) for asked in hub.requests] == [("/api/models", None)]


@pytest.mark.parametrize("fault", ["away", "drop", "silent", (503, {}, b"")])
def test_without_the_hub_base_models_have_to_be_brought(hub: LocalHub, monkeypatch, fault):
    monkeypatch.setattr(doctor, "LOOK_SECONDS", 0.5)
    if fault == "away":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    else:
        hub.fault("GET", "/api/models", fault)
    finding = look()["hub-endpoint"]
    assert finding.level is Level.WARNING
    assert "base models that are not here cannot be fetched" in finding.message
    assert "Errno" not in finding.message
    assert "appliance models import" in (finding.remedy or "")


def test_an_organisation_without_a_token_is_a_problem():
    finding = look(hub_org=ORG)["hub"]
    assert finding.level is Level.PROBLEM
    assert "APPLIANCE_HUB_TOKEN_FILE" in (finding.remedy or "")


def test_it_asks_who_and_nothing_else(hub: LocalHub):
    hub.user(WRITE, acme="write")
    hub.user(READ, role="read", acme="read")
    findings = look(hub_org=ORG, hub_token=WRITE, hub_read_token=READ)
    assert [(asked.method, asked.path) for asked in hub.requests] == [("GET", "/api/whoami-v2")] * 2
    assert {check: level(finding) for check, finding in findings.items()} == {
        "hub-endpoint": "ok",
        "hub-clock": "ok",
        "hub": "warning",
        "hub-read": "ok",
    }
    assert "also write to: bot" in findings["hub"].message
    assert WRITE not in str(findings)


def test_a_token_that_the_hub_does_not_know(hub: LocalHub):
    findings = look(hub_org=ORG, hub_token=WRITE, hub_read_token=READ)
    assert [level(findings[check]) for check in ("hub", "hub-read")] == ["problem", "problem"]
    assert "does not know the token" in findings["hub"].message


def test_a_hub_that_is_away_is_no_problem_of_the_token(hub: LocalHub, monkeypatch):
    hub.fault("GET", "/api/whoami-v2", "silent")
    monkeypatch.setattr(doctor, "ANSWER_SECONDS", 0.5)
    finding = look(hub_org=ORG, hub_token=WRITE)["hub"]
    assert (finding.level, "pushes wait until it answers" in finding.message) == (Level.WARNING, True)


@pytest.mark.parametrize("shift", [-600, 600])
def test_a_clock_that_is_wrong(hub: LocalHub, shift):
    hub.user(WRITE, acme="write")
    hub.clock_shift = shift
    finding = look(hub_org=ORG, hub_token=WRITE)["hub-clock"]
    assert finding.level is Level.WARNING
    assert ("ahead of" if shift < 0 else "behind") in finding.message


def test_one_token_for_both_is_more_than_reading_needs(hub: LocalHub):
    hub.user(WRITE, acme="write")
    assert "is the one for writing" in look(hub_org=ORG, hub_token=WRITE, hub_read_token=WRITE)["hub-read"].message
    hub.user(READ, acme="write")
    assert "may also write" in look(hub_org=ORG, hub_token=WRITE, hub_read_token=READ)["hub-read"].message


def fine(*scopes: tuple[str, str], everywhere: tuple[str, ...] = (), in_org: str = "write"):
    scoped = [{"entity": {"type": "org", "name": name}, "permissions": [right]} for name, right in scopes]
    token = {"role": "fineGrained", "fineGrained": {"scoped": scoped, "global": list(everywhere)}}
    return {"name": "bot", "orgs": [{"name": ORG, "roleInOrg": in_org}], "auth": {"accessToken": token}}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (fine((ORG, "repo.write")), (Level.OK, "and to nothing else")),
        (fine((f"{ORG}/one", "repo.write")), (Level.PROBLEM, "may not write to acme")),
        (fine((ORG, "repo.content.read")), (Level.PROBLEM, "may not write to acme")),
        (fine((ORG, "repo.write"), ("bot", "repo.write")), (Level.WARNING, "also write to: bot")),
        (fine((ORG, "repo.write"), everywhere=("discussion.write",)), (Level.WARNING, "everything else")),
        (fine((ORG, "repo.write"), in_org="read"), (Level.PROBLEM, "may only read in acme")),
        ({**fine((ORG, "repo.write")), "orgs": []}, (Level.PROBLEM, "in no organisation acme (in: none)")),
        ({**fine(), "name": ORG}, (Level.PROBLEM, "a person's own namespace")),
        ({"name": "bot"}, (Level.PROBLEM, "in no organisation")),
    ],
)
def test_what_a_token_may_do_is_what_the_hub_says(answer, says):
    (finding,) = write_findings(read_who(answer, endpoint="https://huggingface.co"), ORG)
    assert (finding.level, says[1] in finding.message) == (says[0], True), finding.message


@pytest.mark.parametrize("org", ["ACME", "Bot"])
def test_to_the_hub_names_that_differ_in_case_are_one(org: str):
    answer = fine((ORG, "repo.write"), (f"{ORG}/one", "repo.write"))
    (finding,) = write_findings(read_who(answer, endpoint="https://huggingface.co"), org)
    says = {"ACME": "may push to ACME, and to nothing else", "Bot": "a person's own namespace"}
    assert says[org] in finding.message


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [("https://huggingface.co", "ok"), ("http://127.0.0.1:1", "ok"), ("http://hub.example", "problem")],
)
def test_the_token_does_not_travel_in_the_clear(endpoint, found):
    (finding,) = doctor._check_endpoint(read_who({}, endpoint=endpoint))
    assert level(finding) == found
