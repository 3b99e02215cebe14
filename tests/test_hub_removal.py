"""Taking back what was pushed, with the real client: the job's own, nobody else's, and what is left is said."""

import pytest

from appliance.hub.push import Errand
from appliance.hub.removal import Taken, remove
from appliance.pushing import PushError
from tests.published import ORG, Published, publish

pytest_plugins = "tests.hub_fixtures"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def taken(published: Published, errand: Errand, **other: str) -> Taken:
    facts = {"installation": published.installation, "job_uuid": published.job_uuid, **other}
    return Taken(errand.repository, reference=f"job-{published.number:04d}", shared=errand.shared, **facts)


def test_a_repository_of_one_job_is_deleted_and_a_second_time_there_is_nothing_to_do(hub, pusher, published):
    pusher.push(published)
    for _ in range(2):
        assert remove(pusher.connect(), taken(published, published.errand), pusher.intentions) == ()
        assert hub.repos == {}


def test_a_repository_that_was_created_and_never_filled_is_deleted(hub, pusher, published):
    hub.add(published.errand.repository, {})
    pusher.intentions.note(published.errand.repository)
    assert remove(pusher.connect(), taken(published, published.errand), pusher.intentions) == ()
    assert hub.repos == {}


@pytest.mark.parametrize(
    "other",
    [{"installation": "11111111-2222-4333-8444-555555555555"}, {"job_uuid": "11111111-2222-4333-8444-555555555555"}],
    ids=["another installation's", "another job's"],
)
def test_what_is_not_ours_stays(hub, pusher, published, other):
    pusher.push(published)
    with pytest.raises(PushError, match="not of this job"):
        remove(pusher.connect(), taken(published, published.errand, **other), pusher.intentions)
    assert list(hub.repos) == [published.errand.repository]
    assert hub.asked("DELETE", "") == []


def test_from_a_shared_repository_a_job_takes_its_tag_and_branch_and_says_what_is_left(hub, pusher, tmp_path):
    first, second = (publish(tmp_path / "outbox", number) for number in (7, 8))
    pusher.push(first, first.shared())
    pusher.push(second, second.shared(branch="job-0008"))
    left = remove(pusher.connect(), taken(second, second.shared()), pusher.intentions)
    repo = hub.repos[f"{ORG}/support"]
    assert (set(repo.branches), set(repo.tags)) == ({"main"}, {"job-0007"})
    assert len(left) == 1
    left = remove(pusher.connect(), taken(first, first.shared()), pusher.intentions)
    assert (set(repo.branches), set(repo.tags)) == ({"main"}, set())
    assert "main branch of acme/support holds this job's adapter" in left[1]


def test_a_token_that_may_not_delete_deletes_nothing(hub, pusher, published):
    pusher.push(published)
    hub.user("hf_reading" + "x" * 24, role="read", **{ORG: "write"})
    with pytest.raises(Exception, match="403"):
        remove(pusher.connect("hf_reading" + "x" * 24), taken(published, published.errand), pusher.intentions)
    assert list(hub.repos) == [published.errand.repository]
