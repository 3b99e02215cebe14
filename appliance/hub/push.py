"""One push, in the order that keeps a private adapter private. Every step can be repeated: killed anywhere, the next
push ends in the same single repository with the same files.

Look first. Create only what is not there, private. Read that it is private; send the large files, which nothing refers
to; read again; commit; read again, and compare what is there with what was sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from appliance.hub.connection import HubRefusal, NotTheHub
from appliance.hub.intentions import Intentions
from appliance.hub.parcel import ParcelFile
from appliance.hub.repository import MAIN, OF_THE_HUB, Repository, Seen, additions_of
from appliance.pushing import PushError, PushResult

# How often we start over when somebody else commits at the same time.
TRIES_AGAINST_OTHERS: Final = 3

Parcel = tuple[ParcelFile, ...]
Report = Callable[[str], object]


class XetBroken(Exception):
    """Large files did not get through the Xet protocol; the older one may work."""


class Owner(Protocol):
    """Who a repository must belong to."""

    @property
    def installation(self) -> str: ...

    @property
    def job_uuid(self) -> str: ...

    @property
    def shared(self) -> bool: ...


@dataclass(frozen=True)
class Errand:
    """What is pushed where.

    `repository` is `org/name`. In a `shared` one the commit goes to `branch` and is tagged `tag`. `public` is only true
    when the administrator and the recipe both say so.
    """

    repository: str
    installation: str
    job_uuid: str
    message: str
    shared: bool = False
    branch: str = MAIN
    tag: str | None = None
    public: bool = False


@dataclass(frozen=True)
class Pushed:
    """Where a parcel lies now."""

    repository: str
    commit: str
    url: str


def push(
    api: HfApi, errand: Errand, parcel: Parcel, intentions: Intentions, *, report: Report = lambda phase: None
) -> Pushed:
    """See that the repository holds exactly the parcel. Raises PushError, XetBroken or what the library raises."""
    repository = Repository(api, errand.repository)
    report("look")
    _see_that_it_is_ours(repository, errand, intentions)
    if errand.branch != MAIN:
        repository.start_branch(errand.branch)
    commit = _deliver(repository, errand, parcel, report)
    if errand.tag:
        _tag(repository, errand, errand.tag, commit, parcel)
    _look(repository, errand)
    return Pushed(errand.repository, commit, f"{api.endpoint}/{errand.repository}")


def _see_that_it_is_ours(repository: Repository, errand: Errand, intentions: Intentions) -> None:
    """An existing repository is private and belongs to us; one that is not there is created."""
    seen = repository.look()
    if seen is None:
        repository.refuse_personal_namespace()
        intentions.note(repository.name)
        repository.create(private=not errand.public)
        seen = repository.look()
    if seen is None:
        raise PushError(PushResult.CONFLICT, f"the repository {repository.name} was created and is not there")
    _refuse_public(seen, errand)
    if not belongs(repository, seen, errand, intentions):
        raise PushError(
            PushResult.CONFLICT,
            f"the repository {repository.name} is there already and is not of this appliance",
            hint="Nothing was sent. Rename or remove it, or let the recipe name another hub.repo, then push again with"
            " `appliance push`.",
            blocked=True,
        )


def belongs(repository: Repository, seen: Seen, owner: Owner, intentions: Intentions) -> bool:
    """Whether a repository is ours: empty and one that we meant to create, or with the marker of this installation.

    Unless it is shared the marker must be that of this job, too.
    """
    if seen.names <= OF_THE_HUB and intentions.has(repository.name):
        return True
    marker = repository.marker(seen)
    if marker.get("installation") != owner.installation:
        return False
    return owner.shared or marker.get("job_uuid") == owner.job_uuid


def _look(repository: Repository, errand: Errand) -> Seen:
    """A look that insists: the repository is there, and it is private."""
    seen = repository.look(errand.branch)
    if seen is None:
        raise PushError(PushResult.CONFLICT, f"the repository {repository.name} went away while we were at it")
    _refuse_public(seen, errand)
    return seen


def _refuse_public(seen: Seen, errand: Errand) -> None:
    if not seen.private and not errand.public:
        raise PushError(
            PushResult.NOT_PRIVATE,
            f"the repository {errand.repository} is not private",
            hint="Nothing more is sent. Make it private on the Hub, look at who has seen it, then push again with"
            " `appliance push`.",
            blocked=True,
        )


def _deliver(repository: Repository, errand: Errand, parcel: Parcel, report: Report) -> str:
    """The commit that holds the parcel, which may be there from an earlier try."""
    for _ in range(TRIES_AGAINST_OTHERS):
        before = _look(repository, errand)
        if repository.holds(before.commit, parcel):
            return before.commit
        report("upload")
        additions = additions_of(parcel)
        _upload(repository, additions, errand)
        _look(repository, errand)
        report("commit")
        gone = before.names - {file.name for file in parcel} - OF_THE_HUB
        answered = _commit(repository, errand, additions, gone, before)
        after = _look(repository, errand)
        if repository.holds(after.commit, parcel):
            return after.commit
        if answered:
            raise PushError(PushResult.CONFLICT, "what the repository holds is not what was sent")
    raise PushError(PushResult.CONFLICT, "somebody else commits to the repository all the time")


def _upload(repository: Repository, additions: list[Any], errand: Errand) -> None:
    try:
        repository.upload(additions, branch=errand.branch)
    except (HfHubHTTPError, HubRefusal, NotTheHub, httpx.HTTPError):
        raise
    except Exception as error:
        _raise_http_cause(error)
        if constants.HF_HUB_DISABLE_XET:
            raise
        raise XetBroken(str(error)) from error


def _raise_http_cause(error: BaseException) -> None:
    """The library wraps what happened to one file of several; the cause is what tells."""
    cause = error.__cause__
    if isinstance(cause, (HfHubHTTPError, HubRefusal, NotTheHub, httpx.HTTPError)):
        raise cause


def _commit(repository: Repository, errand: Errand, additions: list[Any], gone: frozenset[str], before: Seen) -> bool:
    """Commit. False when somebody else's commit came first, or our own whose answer was lost: a look tells.

    Raises what the library raises when a look finds that nothing has changed.
    """
    try:
        repository.commit(additions, gone, branch=errand.branch, parent=before.commit, message=errand.message)
    except (HfHubHTTPError, HubRefusal, NotTheHub, httpx.HTTPError, ValueError) as error:
        if _is_precondition(error) or _look(repository, errand).commit != before.commit:
            return False
        raise
    return True


def _is_precondition(error: BaseException) -> bool:
    return isinstance(error, HfHubHTTPError) and error.response.status_code == 412


def _tag(repository: Repository, errand: Errand, tag: str, commit: str, parcel: Parcel) -> None:
    """Name the commit by its job. A tag that is there already must hold the same files, perhaps on another branch."""
    there = repository.tags().get(tag)
    if there is None:
        _look(repository, errand)
        repository.tag(tag, commit)
    elif there != commit and not repository.holds(there, parcel):
        raise PushError(
            PushResult.CONFLICT,
            f"the tag {tag} of {repository.name} stands for other files",
            hint="Look at who set it; remove it, then push again with `appliance push`.",
            blocked=True,
        )
