"""What a person can ask for, and when it makes sense. Pure; the loop has the last word."""

from typing import Final

from appliance.job import ENDED, Job, JobState, Outcome, Push, Role, Waiting

JOB_ACTIONS: Final = ("cancel", "retry", "approve", "push")


def offered(job: Job, *, hub: bool) -> tuple[str, ...]:
    """The actions that make sense for a job as it stands. `hub` says whether there is an organisation to push to."""
    return tuple(action for action in JOB_ACTIONS if why_not(job, action, hub=hub) is None)


def why_not(job: Job, action: str, *, hub: bool) -> str | None:
    """Why an action makes no sense now, as a sentence; None when it does."""
    match action:
        case "cancel" if job.state in ENDED:
            return f"job {job.id} has ended already: {job.state}"
        case "cancel" if job.cancel_requested:
            return f"job {job.id} is being stopped already"
        case "cancel" if job.outcome is not None:
            return f"it is too late to cancel job {job.id}: how it ends is settled ({job.outcome}), and being published"
        case "retry" if job.state not in ENDED:
            return f"job {job.id} has not ended yet"
        case "retry" if job.state is JobState.SUCCEEDED:
            return f"job {job.id} has succeeded; drop its dataset again for another training"
        case "approve" if job.state in ENDED or job.waiting is not Waiting.APPROVAL:
            return f"job {job.id} does not wait for approval"
        case "push" if job.state not in ENDED or job.outcome is not Outcome.SUCCEEDED:
            return f"job {job.id} has no finished adapter to push"
        case "push" if not hub:
            return "no organisation is set to push to; set APPLIANCE_HUB_ORG"
        case "push" if job.push is Push.PUSHED:
            return f"job {job.id} was pushed already"
    return None


def why_not_with_recipe(job: Job) -> str | None:
    """Why a job cannot be run again with another recipe, as a sentence; None when it can."""
    return None if job.state in ENDED else f"job {job.id} has not ended yet"


def why_not_with_library(job: Job) -> str | None:
    """The same for a recipe of the library, which names no rows."""
    if any(file.role is Role.DATASET for file in job.files):
        return why_not_with_recipe(job)
    return f"job {job.id} has no rows of its own: its recipe named them. Drop a recipe that names them, too"
