"""Who may read and who may act."""

from dataclasses import replace

import pytest

from appliance.actions import offered, why_not
from appliance.job import Job, JobState, Outcome, Push, Stage, Waiting
from appliance.web.access import SESSION_SECONDS, Access, Caller, allowed_hosts, is_loopback, safe_next

NOW = 1_790_000_000.0
HOSTS = allowed_hosts("10.0.0.5", ["Spark.example"])
OPEN = Access(HOSTS)
CLOSED = Access(HOSTS, api_token="api", read_token="read")
HERE = Caller(peer="127.0.0.1", host="localhost:8080")
AWAY = Caller(peer="192.0.2.7", host="spark.example:8080")


def test_on_this_machine_reading_is_open():
    assert OPEN.may_read(HERE, now=NOW)
    assert CLOSED.may_read(HERE, now=NOW)


@pytest.mark.parametrize(
    "caller",
    [AWAY, replace(HERE, host="spark.example"), replace(HERE, peer="192.0.2.7")],
    ids=["another machine", "through a proxy or a tunnel with a name", "a forged Host header"],
)
def test_beyond_it_nothing_exists_until_there_is_a_read_token(caller):
    assert not OPEN.may_reach(caller)
    assert not Access(HOSTS, api_token="api").may_act(replace(caller, bearer="api"), now=NOW)
    assert CLOSED.may_reach(caller)
    assert not CLOSED.may_read(caller, now=NOW)
    assert CLOSED.may_read(replace(caller, bearer="read"), now=NOW)
    assert CLOSED.may_read(replace(caller, bearer="api"), now=NOW)


def test_acting_needs_the_api_token_even_here():
    assert not OPEN.may_act(replace(HERE, bearer="api"), now=NOW)
    assert not CLOSED.may_act(HERE, now=NOW)
    assert not CLOSED.may_act(replace(HERE, bearer="read"), now=NOW)
    assert CLOSED.may_act(replace(HERE, bearer="api"), now=NOW)


def test_a_session_is_as_good_as_the_token_that_it_was_made_with():
    for token, kind in (("api", "api"), ("read", "read")):
        cookie = CLOSED.login(token, now=NOW)
        assert cookie is not None
        assert CLOSED.session(cookie, now=NOW) == kind
        assert CLOSED.may_act(replace(AWAY, cookie=cookie), now=NOW) == (kind == "api")
    assert CLOSED.login("wrong", now=NOW) is None
    assert OPEN.login("", now=NOW) is None


def test_a_session_ends_with_its_time_and_with_its_token():
    cookie = CLOSED.login("api", now=NOW) or ""
    assert CLOSED.session(cookie, now=NOW + SESSION_SECONDS + 1) is None
    assert Access(HOSTS, api_token="another", read_token="read").session(cookie, now=NOW) is None


@pytest.mark.parametrize("cookie", ["", "api", "api.9999999999.x.y", "api." + "9" * 5000 + ".x.y", "api.²²².x.y", "…"])
def test_a_made_up_cookie_is_none(cookie):
    assert CLOSED.session(cookie, now=NOW) is None


def test_a_read_session_cannot_be_made_one_that_acts():
    cookie = (CLOSED.login("read", now=NOW) or "").replace("read.", "api.", 1)
    assert CLOSED.session(cookie, now=NOW) is None


def test_the_proof_belongs_to_one_session():
    one, other = CLOSED.login("api", now=NOW) or "", CLOSED.login("api", now=NOW) or ""
    assert CLOSED.proves(one, CLOSED.csrf(one))
    assert not CLOSED.proves(other, CLOSED.csrf(one))
    assert not CLOSED.proves("", "")


@pytest.mark.parametrize(
    ("host", "ours"),
    [
        ("localhost", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("10.0.0.5", True),
        ("SPARK.example:80", True),
        ("172.18.0.2:8080", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("", False),
    ],
)
def test_only_our_own_names_are_served(host, ours):
    assert OPEN.serves_host(Caller(peer="192.0.2.7", host=host, local="172.18.0.2")) is ours


@pytest.mark.parametrize(
    ("headers", "elsewhere"),
    [
        ({}, False),
        ({"origin": "http://localhost:8080"}, False),
        ({"origin": "http://evil.example"}, True),
        ({"origin": "http://localhost:9999"}, True),
        ({"origin": "null"}, True),
        ({"site": "same-origin"}, False),
        ({"site": "none"}, False),
        ({"site": "same-site"}, True),
        ({"site": "cross-site"}, True),
    ],
)
def test_a_page_of_another_origin_is_recognised(headers, elsewhere):
    assert replace(HERE, **headers).from_elsewhere is elsewhere


def test_addresses_of_this_machine():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("", "10.0.0.1", "::ffff:10.0.0.1", "localhost", "fe80::1%eth0")))


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", "", "/a\nb"])
def test_a_login_leads_to_no_other_site(path):
    assert safe_next(path) == "/"
    assert safe_next("/jobs/7") == "/jobs/7"


JOB = Job(7, "0007-support", "u", "support", JobState.QUEUED, NOW)
DONE = replace(JOB, state=JobState.SUCCEEDED, outcome=Outcome.SUCCEEDED)


@pytest.mark.parametrize(
    ("job", "actions"),
    [
        (JOB, ("cancel",)),
        (replace(JOB, state=JobState.RUNNING), ("cancel",)),
        (replace(JOB, cancel_requested=True), ()),
        (replace(JOB, outcome=Outcome.SUCCEEDED), ()),
        (replace(JOB, state=JobState.RUNNING, stage=Stage.PUBLISH, outcome=Outcome.FAILED), ()),
        (replace(JOB, waiting=Waiting.APPROVAL), ("cancel", "approve")),
        (replace(JOB, state=JobState.FAILED, outcome=Outcome.FAILED), ("retry",)),
        (replace(JOB, state=JobState.REJECTED, outcome=Outcome.REJECTED), ("retry",)),
        (replace(DONE, push=Push.WITHHELD), ("push",)),
        (replace(DONE, push=Push.PUSHED), ()),
        (replace(DONE, outcome=Outcome.CHECKED), ()),
    ],
)
def test_an_action_is_offered_where_it_makes_sense(job, actions):
    assert offered(job, hub=True) == actions
    assert "push" not in offered(job, hub=False)


def test_what_makes_no_sense_is_explained():
    assert why_not(DONE, "cancel", hub=True) == "job 0007-support has ended already: succeeded"
    assert "APPLIANCE_HUB_ORG" in (why_not(DONE, "push", hub=False) or "")
