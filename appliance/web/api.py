"""What the API tells, version 1: jobs, their history, their curves, and events as they come."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response

from appliance.history import Histories
from appliance.job import ENDED, Job, JobState, Push
from appliance.names import named_number
from appliance.web.answers import JobAnswer, ProblemAnswer
from appliance.web.guards import may_read
from appliance.web.jobs import answer
from appliance.web.live import Event, News, Shared, Watchers
from appliance.web.site import Site

REFUSALS: Final[dict[int | str, dict[str, Any]]] = {
    code: {"model": ProblemAnswer, "description": text}
    for code, text in (
        (401, "The token is missing or wrong."),
        (403, "Not configured, or sent by another site's page."),
        (404, "There is no such job."),
        (409, "It makes no sense now."),
    )
}


def make_api(site: Site, histories: Histories, shared: Shared, watchers: Watchers) -> APIRouter:
    """Everything below `/api/v1` that only reads."""
    api = APIRouter(prefix="/api/v1", tags=["API"])
    reads = [Depends(may_read(site))]
    find = job_finder(site)

    @api.get("/jobs", dependencies=reads, summary="The newest jobs, newest first")
    def jobs(limit: Annotated[int, Query(ge=1, le=500)] = 50, state: JobState | None = None) -> list[JobAnswer]:
        found = site.store.recent_jobs(limit, JobState if state is None else [state])
        return [answer(site, job) for job in found]

    @api.get("/jobs/{id}", dependencies=reads, responses=_some(404), summary="One job, by number or id")
    def job(id: str) -> JobAnswer:
        return answer(site, find(id))

    @api.get("/jobs/{id}/history", dependencies=reads, responses=_some(404), summary="What happened to a job")
    def history(id: str) -> list[dict[str, Any]]:
        return site.store.events(find(id).number)

    @api.get("/jobs/{id}/curves", dependencies=reads, responses=_some(404), summary="Loss, speed and memory by step")
    def curves(id: str) -> dict[str, list[float | None]]:
        return histories.of(find(id).id).columns()

    @api.get(
        "/jobs/{id}/events",
        dependencies=reads,
        responses={200: {"content": {"text/event-stream": {}}}, **_some(404)},
        response_class=Response,
        summary="Server-sent events: job when it changes, step and eval as they come, end when it has ended",
    )
    async def events(id: str, request: Request) -> Response:
        watched = find(id)
        return watchers.stream(job_news(site, histories, shared, watched, after=_last_event_id(request)))

    return api


def job_finder(site: Site) -> Callable[[str], Job]:
    """A function from what a path names to the job. It raises 404."""

    def find(name: str) -> Job:
        number = named_number(name)
        job = site.store.job(number) if number is not None else None
        if job is None:
            raise HTTPException(404, "there is no such job")
        return job

    return find


def is_over(job: Job | JobAnswer) -> bool:
    """Whether nothing about a job will change any more: a push goes on after the end."""
    return job.state in ENDED and job.push is not Push.PENDING


def job_news(site: Site, histories: Histories, shared: Shared, job: Job, *, after: int | None) -> News:
    """What is new about a job each time that it is called; None once there will never be more."""
    said: JobAnswer | None = None
    count, over = after, False

    def look() -> tuple[JobAnswer, Any]:
        now = site.store.job(job.number) or job
        return answer(site, now), histories.of(job.id)

    async def news() -> list[Event] | None:
        nonlocal said, count, over
        if over:
            return None
        told, history = await shared.get(("job", job.number), look)
        if count is None:
            _, count = history.since(0)
        steps, count = history.since(count)
        events = [Event(step["event"], step, id=count) for step in steps]
        if told != said:
            events.append(Event("job", told.model_dump_json()))
            said = told
        over = is_over(told)
        return events

    return news


def _last_event_id(request: Request) -> int | None:
    number = request.headers.get("last-event-id", "")
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


def _some(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: REFUSALS[code] for code in (401, *codes)}
