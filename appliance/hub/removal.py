"""Taking back what was pushed, as careful about whose repository it is as pushing is. Every step can be repeated."""

from dataclasses import dataclass

from huggingface_hub import HfApi

from appliance.hub.intentions import Intentions
from appliance.hub.push import belongs
from appliance.hub.repository import Repository, Seen
from appliance.pushing import PushError, PushResult


@dataclass(frozen=True)
class Taken:
    """What a job has on the Hub. In a `shared` repository that is the tag and perhaps the branch `reference`."""

    repository: str
    installation: str
    job_uuid: str
    reference: str
    shared: bool


def remove(api: HfApi, taken: Taken, intentions: Intentions) -> tuple[str, ...]:
    """Remove a job's repository, or its tag and branch from a shared one. Returns what is left there, in sentences.

    Raises PushError for a repository that is not ours, and what the library raises.
    """
    repository = Repository(api, taken.repository)
    seen = repository.look()
    if seen is None:
        return ()
    if not belongs(repository, seen, taken, intentions):
        raise PushError(
            PushResult.CONFLICT,
            f"the repository {taken.repository} is not of this job",
            hint="Nothing was deleted. Look at whose it is; what must go from there has to be deleted on the Hub.",
            blocked=True,
        )
    if taken.shared:
        return _remove_from_shared(repository, seen, taken)
    repository.delete()
    if repository.look() is not None:
        raise PushError(PushResult.CONFLICT, f"the repository {taken.repository} was deleted and is still there")
    return ()


def _remove_from_shared(repository: Repository, seen: Seen, taken: Taken) -> tuple[str, ...]:
    """Tag and branch go. Commits of the main branch stay in its history: other jobs' are built on them."""
    repository.forget(taken.reference)
    name = taken.repository
    left = [f"the commits of this job may be in the history of {name}; only deleting that repository removes them"]
    if repository.marker(seen).get("job_uuid") == taken.job_uuid:
        left.append(f"the main branch of {name} holds this job's adapter until another job's improves on it")
    return tuple(left)
