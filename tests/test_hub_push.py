"""Pushing with the real client to a Hub of our own: what leaves, to where, and that it stays private."""

import json
import os
import re
from pathlib import Path

import pytest

from appliance.hub.push import Errand
from appliance.outbox import may_leave
from appliance.pushing import PushError, PushResult, own_repository
from tests.local_hub import LocalHub
from tests.published import (
    CANARY,
    INSTALLATION,
    ORG,
    Published,
    Pusher,
    holds_exactly,
    publish,
    sent,
)

# The library's own way of sending a file, as httpx sees it.
pytest_plugins = "tests.hub_fixtures"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

OTHER_INSTALLATION = "11111111-2222-4333-8444-555555555555"


def refused(pusher: Pusher, published: Published, errand: Errand | None = None, **how) -> PushError:
    with pytest.raises(PushError) as caught:
        pusher.push(published, errand, **how)
    return caught.value


def commits(hub: LocalHub) -> int:
    return len(hub.asked("POST", "/commit/"))


# What leaves


@pytest.mark.parametrize("xet", [True, False], ids=["xet", "lfs"])
def test_a_private_repository_holds_exactly_what_may_leave(hub, pusher, published, xet):
    pushed = pusher.push(published, xet=xet)
    assert pushed.repository == published.errand.repository
    holds_exactly(hub, pushed.repository, published)
    assert hub.repos[pushed.repository].branches["main"] == pushed.commit
    assert bool(hub.asked("GET", "xet-write-token")) is xet
    assert bool(hub.objects) is not xet
    assert commits(hub) == 1


def test_large_files_in_parts_arrive_whole(hub, pusher, published):
    hub.multipart_bytes = 20_000
    pusher.push(published, xet=False)
    holds_exactly(hub, published.errand.repository, published)
    assert len(hub.asked("PUT", "/part/")) == 4


def test_pushing_again_changes_nothing(hub, pusher, published):
    first = pusher.push(published)
    assert pusher.push(published) == first
    assert commits(hub) == 1


def test_no_row_leaves_in_any_request(hub, pusher, published):
    pusher.push(published, xet=False)
    assert b'"tuned_loss": 2.1' not in sent(hub)  # base64
    assert CANARY.encode() not in sent(hub)
    everything = b"".join(entry.data or b"" for entry in hub.repos[published.errand.repository].files().values())
    assert CANARY.encode() not in everything + b"".join(hub.objects.values())
    assert b'"tuned_loss": 2.1' in everything


def test_what_may_leave_goes_by_kind():
    assert all(map(may_leave, ("adapter/adapter_model.safetensors", "adapter/README.md", "recipe.yaml", "eval.json")))
    for name in (
        *("adapter/training_args.bin", "adapter/.env", "adapter/optimizer.pt", "adapter/trainer_state.json"),
        *("adapter/rows.jsonl", "adapter/x/y.json", "report.html", "labels.txt", "labels.json", "samples.jsonl"),
        *("metrics.jsonl", "loss.png", "dropped/a.json", "adapter/a.json\n", "adapter/../x.json"),
    ):
        assert not may_leave(name), name


# What was smuggled in


def test_links_and_dot_files_in_the_outbox_are_not_uploaded(hub, pusher, published, tmp_path):
    secret = tmp_path / "secret.json"
    secret.write_text("s3cret")
    adapter = published.directory / "adapter"
    (adapter / "extra.json").symlink_to(secret)
    (adapter / ".env").write_text("s3cret")
    (adapter / "more.safetensors").write_bytes(b"s3cret")
    pusher.push(published, xet=False)
    holds_exactly(hub, published.errand.repository, published)
    assert b"s3cret" not in sent(hub)


def change(path: Path) -> None:
    path.write_bytes(b"other weights")


def link(path: Path) -> None:
    there = path.with_name("moved")
    path.rename(there)
    path.symlink_to(there)


def link_folder(path: Path) -> None:
    there = path.parent.with_name("moved")
    path.parent.rename(there)
    path.parent.symlink_to(there)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("smuggle", [change, link, link_folder, fifo, Path.unlink])
def test_a_file_that_is_not_as_it_was_published_blocks_the_push(hub, pusher, published, smuggle):
    smuggle(published.directory / "adapter" / "adapter_model.safetensors")
    error = refused(pusher, published)
    assert (error.result, error.blocked) == (PushResult.OTHER, True)
    assert re.fullmatch(r"adapter/[\w.]+ in the outbox is not what was published", error.message)
    assert hub.requests == []


def test_a_manifest_that_was_changed_blocks_the_push(hub, pusher, published):
    """Whoever may write to the outbox could mark the rows."""
    path = published.directory / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"]:
        entry["push"] = True
    path.write_text(json.dumps(manifest))
    assert "manifest.json in the outbox is not what was published" in refused(pusher, published).message
    assert hub.requests == []


def test_a_result_that_was_moved_away_blocks_the_push_and_says_so(hub, pusher, published):
    (published.directory / "manifest.json").unlink()
    error = refused(pusher, published)
    assert error.blocked
    assert "not in the outbox any more" in error.message


# Private, or nothing


def test_a_repository_that_is_public_gets_nothing(hub, pusher, published):
    pusher.push(published)
    hub.repos[published.errand.repository].private = False
    hub.requests.clear()
    error = refused(pusher, published)
    assert (error.result, error.blocked) == (PushResult.NOT_PRIVATE, True)
    assert [asked.method for asked in hub.requests] == ["GET"]


@pytest.mark.parametrize("shared", [False, True])
def test_a_flip_to_public_between_any_two_calls_is_seen(hub, pusher, published, shared):
    """Before the commit: nothing is committed. In it: seen right after, and nothing more is sent.

    The push ends with a look, so that no flip between any two of its calls escapes it.
    """
    errand = published.shared("job-0007") if shared else published.errand
    pusher.push(published, errand)
    calls = list(hub.requests)
    committed = next(i for i, asked in enumerate(calls, 1) if "/commit/" in asked.path)
    assert "/revision/" in calls[-1].path
    last_before = max(i for i, asked in enumerate(calls[: committed - 1], 1) if "/revision/" in asked.path)
    for number in range(1, len(calls) + 1):
        for path in (pusher.root / "intended").glob("*"):
            path.unlink()
        hub.repos.clear()
        hub.requests.clear()
        flip = Flip(hub, errand.repository, number)
        hub.watch = flip
        if number == len(calls):
            pusher.push(published, errand)
            continue
        error = refused(pusher, published, errand)
        assert (error.result, error.blocked) == (PushResult.NOT_PRIVATE, True), number
        if number < last_before:
            assert commits(hub) == 0, number
        if number >= committed:
            after = hub.requests[flip.flipped_at or 0 :]
            sending = [asked for asked in after if asked.method in ("POST", "PUT") and "/tag/" not in asked.path]
            assert sending == [], f"sent after call {number}"


class Flip:
    """Makes a repository public once call `number` is done and the repository there."""

    def __init__(self, hub: LocalHub, repository: str, number: int) -> None:
        self.hub, self.repository, self.number = hub, repository, number
        self.flipped_at: int | None = None

    def __call__(self, at: int, asked: object, done: bool) -> None:
        if done and at >= self.number and self.flipped_at is None and self.repository in self.hub.repos:
            self.hub.repos[self.repository].private = False
            self.flipped_at = at


@pytest.mark.parametrize("private", ["missing", "null", "yes"])
def test_only_a_plain_true_counts_as_private(hub, pusher, published, private):
    answer = {"id": published.errand.repository, "sha": "0" * 40, "siblings": []}
    answer |= {} if private == "missing" else {"private": None if private == "null" else "yes"}
    body = json.dumps(answer).encode()
    hub.fault("GET", "/api/models/", (200, {"Content-Type": "application/json"}, body))
    error = refused(pusher, published)
    assert (error.result, error.blocked) == (PushResult.NOT_PRIVATE, True)
    assert hub.asked("POST", "") == []


def test_a_repository_that_is_created_public_gets_nothing(hub, pusher, published):
    """`create_repo` answers success all the same: the organisation's default is public."""
    hub.creates_public = True
    error = refused(pusher, published)
    assert error.result is PushResult.NOT_PRIVATE
    assert [asked.path for asked in hub.asked("POST", "")] == ["/api/repos/create"]


def test_a_public_repository_is_used_only_when_both_say_so(hub, pusher, published):
    errand = Errand(published.errand.repository, INSTALLATION, published.job_uuid, "public", public=True)
    pusher.push(published, errand)
    assert hub.repos[errand.repository].private is False
    assert hub.asked("POST", "/create")[0].json()["visibility"] == "public"


# Ours, or nothing


def test_somebody_elses_repository_of_the_same_name_is_not_touched(hub, pusher, published):
    theirs = hub.add(published.errand.repository, {"README.md": b"mine"})
    before = dict(theirs.files())
    error = refused(pusher, published)
    assert (error.result, error.blocked) == (PushResult.CONFLICT, True)
    assert "is not of this appliance" in error.message
    assert theirs.files() == before
    assert hub.asked("POST", "") == []


@pytest.mark.parametrize("marker", [b"[]", b"not json", b"{}", b'{"installation": "another"}'])
def test_a_marker_that_is_not_ours_does_not_help(hub, pusher, published, marker):
    hub.add(published.errand.repository, {"appliance.json": marker})
    assert refused(pusher, published).result is PushResult.CONFLICT
    assert hub.asked("POST", "") == []


def test_an_empty_repository_that_we_did_not_mean_to_create_is_somebody_elses(hub, pusher, published):
    hub.add(published.errand.repository, {".gitattributes": b""})
    assert refused(pusher, published).result is PushResult.CONFLICT


def test_a_kill_between_creating_and_the_first_commit_does_not_block(hub, pusher, published):
    hub.fault("POST", "/api/repos/create", "apply, drop")
    with pytest.raises(Exception, match="disconnected"):
        pusher.push(published)
    assert published.errand.repository in hub.repos
    pusher.push(published)
    holds_exactly(hub, published.errand.repository, published)


def test_two_installations_with_the_same_job_numbers_have_repositories_of_their_own(hub, pusher, tmp_path):
    ours = publish(tmp_path / "ours", 7)
    theirs = publish(tmp_path / "theirs", 7, installation=OTHER_INSTALLATION, weights=b"other")
    names = {own_repository("support", 7, result.job_uuid) for result in (ours, theirs)}
    assert len(names) == 2
    for result in (ours, theirs):
        pusher.push(result)
    for result in (ours, theirs):
        holds_exactly(hub, result.errand.repository, result)
    # The shared repository of one is refused to the other.
    pusher.push(ours, ours.shared())
    error = refused(pusher, theirs, theirs.shared())
    assert error.result is PushResult.CONFLICT
    holds_exactly(hub, f"{ORG}/support", ours)


def test_a_personal_namespace_is_refused_before_anything_is_created(hub, pusher, published):
    errand = Errand("bot/support", INSTALLATION, published.job_uuid, "x")
    error = refused(pusher, published, errand)
    assert (error.result, error.blocked) == (PushResult.AUTH, True)
    assert "a person's own namespace" in error.message
    assert ORG in (error.hint or "")
    assert hub.repos == {}


def test_a_repository_that_was_moved_is_not_followed(hub, pusher, published):
    body = json.dumps({"id": "elsewhere/x", "private": True, "sha": "0" * 40, "siblings": []}).encode()
    hub.fault("GET", "/api/models/", (200, {"Content-Type": "application/json"}, body))
    error = refused(pusher, published)
    assert "was moved to elsewhere/x" in error.message
    assert hub.asked("POST", "") == []


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("support", "support-0007-0a1b2c3d"),
        ("Ünser Süpport; rm -rf /", "unser-support-rm-rf-0007-0a1b2c3d"),
        ("..", "job-0007-0a1b2c3d"),
        ("a..b--c", "a.b-c-0007-0a1b2c3d"),
        ("日本語", "job-0007-0a1b2c3d"),
        ("x" * 300, "x" * 60 + "-0007-0a1b2c3d"),
        ("a.git", "a.git-0007-0a1b2c3d"),
    ],
)
def test_any_name_makes_one_that_the_hub_takes(name, made):
    from huggingface_hub.utils import validate_repo_id

    assert own_repository(name, 7, "0a1b2c3d-6d0f-4f6e-9a55-0d4d7f5f3b01") == made
    validate_repo_id(f"{ORG}/{made}")


# One repository for successive jobs


def test_main_of_a_shared_repository_moves_only_on_what_improved(hub, pusher, tmp_path):
    first, second, third = (publish(tmp_path / "outbox", number) for number in (7, 8, 9))
    repository = f"{ORG}/support"
    pusher.push(first, first.shared())
    pusher.push(second, second.shared("job-0008"))
    repo = hub.repos[repository]
    holds_exactly(hub, repository, first)
    holds_exactly(hub, repository, second, "job-0008")
    pusher.push(third, third.shared())
    holds_exactly(hub, repository, third)
    assert set(repo.tags) == {"job-0007", "job-0008", "job-0009"}
    assert {tag: repo.tags[tag] for tag in repo.tags} == {
        "job-0007": repo.tags["job-0007"],
        "job-0008": repo.branches["job-0008"],
        "job-0009": repo.branches["main"],
    }
    for result, tag in ((first, "job-0007"), (second, "job-0008"), (third, "job-0009")):
        holds_exactly(hub, repository, result, tag)


def test_files_that_are_gone_are_deleted_in_the_same_commit(hub, pusher, tmp_path):
    first = publish(tmp_path / "outbox", 7, extra={"adapter/merges.txt": b"a b"})
    second = publish(tmp_path / "outbox", 8)
    pusher.push(first, first.shared())
    assert "merges.txt" in hub.repos[f"{ORG}/support"].files()
    pusher.push(second, second.shared())
    holds_exactly(hub, f"{ORG}/support", second)
    assert commits(hub) == 2


def test_a_first_job_that_did_not_improve_leaves_main_empty_and_the_repository_ours(hub, pusher, tmp_path):
    first, second = (publish(tmp_path / "outbox", number) for number in (7, 8))
    pusher.push(first, first.shared("job-0007"))
    assert set(hub.repos[f"{ORG}/support"].files()) == {".gitattributes"}
    pusher.push(second, second.shared())
    holds_exactly(hub, f"{ORG}/support", second)


def test_a_person_can_move_main_to_a_job_that_is_on_a_branch(hub, pusher, published):
    pusher.push(published, published.shared("job-0007"))
    pusher.push(published, published.shared())
    holds_exactly(hub, f"{ORG}/support", published)
    assert list(hub.repos[f"{ORG}/support"].tags) == ["job-0007"]


def test_a_tag_that_stands_for_other_files_is_left_alone(hub, pusher, published):
    pusher.push(published, published.shared())
    repo = hub.repos[f"{ORG}/support"]
    repo.tags["job-0007"] = repo.commit("other", {}, "somebody's")
    assert "stands for other files" in refused(pusher, published, published.shared()).message
