"""What each page shows, as the context of its template. Made in a thread, at most once a second for all who watch."""

from dataclasses import dataclass, replace
from typing import Any, Final

from markupsafe import Markup

from appliance.actions import offered, why_not_with_library
from appliance.history import Histories
from appliance.job import ENDED, Job, JobState, Outcome, Verdict
from appliance.revision import version_and_commit
from appliance.status_files import inbox_rows, make_board, queued_row, result_row, running_row, troubles_of
from appliance.texts.board import ONLY_CHECKED, board_context, facts, result_words, why_waiting
from appliance.texts.curves import curves
from appliance.texts.pages import render
from appliance.texts.wording import NOT_HELD_OUT, STAGES, moment, size
from appliance.web.jobs import (
    ResultFile,
    evaluation,
    first_problems,
    log_tail,
    push_words,
    rejections,
    result_files,
    samples,
)
from appliance.web.machine_words import disks, gpu_facts, memory_bar
from appliance.web.site import Site

# Stands where the CSRF proof of a session belongs, in what is made once for all sessions.
PROOF: Final = "@proof@"
ACTIONS: Final = {
    "cancel": "Cancel",
    "retry": "Try again",
    "approve": "Approve",
    "push": "Push to the Hub",
}
TONES: Final = {
    JobState.FAILED: "bad",
    JobState.REJECTED: "warn",
    JobState.CANCELLED: "warn",
}
FIRST: Final = {
    Outcome.SUCCEEDED: ("report.html", "Open the report"),
    Outcome.CHECKED: ("report.html", "What was checked"),
    Outcome.REJECTED: ("WHY.html", "Why it was rejected, and what would work"),
    Outcome.FAILED: ("WHY.html", "Why it failed, and what would work"),
    Outcome.CANCELLED: ("WHY.html", "Why it was cancelled"),
}
LONGEST_SAMPLE: Final = 2000


@dataclass(frozen=True)
class Views:
    """The live parts of every page. `acts` says whether the reader may do more than read."""

    site: Site
    histories: Histories

    def board(self, *, acts: bool) -> str:
        board = make_board(self.site.view(), self.site.store, self.site.jobs, self.site.settings)
        return render("web/board_live.html.j2", board_context(board) | self._rights(acts=acts))

    def inbox(self, *, acts: bool) -> str:
        context = {"inbox": inbox_rows(self.site.view()), "rejections": list(rejections(self.site))}
        return render("web/inbox_live.html.j2", context)

    def system(self, *, acts: bool) -> str:
        reading, settings, view = self.site.machine(), self.site.settings, self.site.view()
        about = [
            ("version", version_and_commit()),
            ("recipes", ", ".join(self.site.recipes())),
            ("models", "" if reading.model_cache_bytes is None else size(reading.model_cache_bytes)),
            ("Hub organisation", settings.hub_org or "none: nothing is pushed"),
            ("last turn", moment(view.time, None)),
        ]
        context = {
            "memory": memory_bar(settings),
            "gpus": [gpu_facts(gpu) for gpu in reading.gpus],
            "disks": disks(reading, settings),
            "about": [(name, value) for name, value in about if value],
            "troubles": troubles_of(view),
        }
        return render("web/system_live.html.j2", context)

    def job_top(self, number: int, *, acts: bool) -> str:
        """How a job stands, and what can be done about it."""
        job = self._job(number)
        view = self.site.view()
        entry = view.running_of(number)
        row = running_row(entry, view) if entry else None
        lead, tone = self._lead(job, running=row is not None)
        folder, files = result_files(self.site, job)
        problems, more = first_problems(folder) if job.outcome is Outcome.REJECTED else ((), 0)
        context = {
            "job": job,
            "row": row,
            "said": lead,
            # The problems stand below it.
            "lead": self._came_of(replace(job, message="")) if problems else lead,
            "tone": tone,
            "problems": problems,
            "more": more,
            "first": _first_to_open(job, files),
            "facts": facts,
            "evaluation": evaluation(self.site, job),
            "actions": offered(job, hub=self.site.settings.hub_org is not None),
            "labels": ACTIONS,
            # The same drop is rejected again, unless a recipe of the library was what is wrong.
            "kinds": {"cancel": "danger", "retry": "quiet" if job.outcome is Outcome.REJECTED else ""},
            "recipes": () if why_not_with_library(job) else self.site.recipes(),
            "memory": memory_bar(self.site.settings),
            **self._rights(acts=acts),
        }
        return render("web/job_top.html.j2", context)

    def job_rest(self, number: int) -> str:
        """What a job left: samples, files, its log, and what it is."""
        job = self._job(number)
        folder, files = result_files(self.site, job)
        stage, log = log_tail(self.site, job)
        shown = samples(self.site, job, folder)
        of_rows = any(sample.get("row") is not None for sample in shown)
        context = {
            "job": job,
            "samples": [_readable(sample) for sample in shown],
            "not_held_out": NOT_HELD_OUT if of_rows and evaluation(self.site, job).get("held_out_rows") == 0 else "",
            "files": files,
            "has_adapter": any(file.path.startswith("adapter/") for file in files),
            "log_stage": stage,
            "log": log,
            "about": self._about(job),
            "again": self._runs_again(job),
        }
        return render("web/job_rest.html.j2", context)

    def job_curves(self, job: Job) -> dict[str, Any]:
        columns = self.histories.of(job.id).columns()
        return {"curves": bool(columns["step"]), "all_curves": curves(columns)}

    def _job(self, number: int) -> Job:
        job = self.site.store.job(number)
        assert job is not None, "jobs are looked up before they are shown"
        return job

    def _lead(self, job: Job, *, running: bool) -> tuple[str, str]:
        if job.state in ENDED and job.outcome is not None:
            return self._came_of(job), _tone(job)
        if running and job.stage:
            stopping = ", and is being stopped" if job.cancel_requested else ""
            return f"{STAGES[job.stage]}{stopping}", ""
        return why_waiting(queued_row(job, self.site.jobs)), ""

    def _came_of(self, job: Job) -> str:
        return result_words(result_row(job, self.site.jobs, self.site.settings))

    def _about(self, job: Job) -> list[tuple[str, str]]:
        about = [
            ("base model", job.base_model or ""),
            ("purpose", ONLY_CHECKED if job.dry_run else ""),
            ("dropped", moment(job.created, None)),
            ("started", moment(job.started, None) if job.started else ""),
            ("ended", moment(job.finished, None) if job.finished else ""),
            ("attempt", str(job.attempt) if job.attempt > 1 else ""),
            ("Hub", push_words(self.site, job)),
            ("files", ", ".join(f"{file.name} ({size(file.bytes)})" for file in job.files)),
        ]
        return [(name, value) for name, value in about if value]

    def _runs_again(self, job: Job) -> list[str]:
        return [str(event["job"]) for event in self.site.store.events(job.number) if event["event"] == "run_again"]

    def _rights(self, *, acts: bool) -> dict[str, Any]:
        configured = self.site.access.api_token is not None
        how = (
            "Log in with the API token to do more than read." if configured else "Set APPLIANCE_API_TOKEN_FILE to act."
        )
        return {"acts": acts, "csrf": PROOF, "how_to_act": how}


def with_proof(html: str, proof: str) -> Markup:
    """A live part as one session sees it."""
    # What we rendered ourselves, escaped; a proof is hexadecimal.
    return Markup(html.replace(PROOF, proof))  # noqa: S704


def _tone(job: Job) -> str:
    if job.state is not JobState.SUCCEEDED:
        return TONES[job.state]
    return {Verdict.BROKEN: "bad", Verdict.IMPROVED: "good", None: "good"}.get(job.verdict, "")


def _first_to_open(job: Job, files: list[ResultFile]) -> tuple[str, str] | None:
    """The page of a result to open first, and what its link says; None where there is none."""
    page = FIRST.get(job.outcome) if job.outcome else None
    return page if page and any(file.path == page[0] for file in files) else None


def _readable(sample: dict[str, Any]) -> dict[str, str]:
    """A sample as text, whatever its file holds."""
    messages = sample.get("messages")
    asked = [m for m in messages if isinstance(m, dict)] if isinstance(messages, list) else []
    last = str(asked[-1].get("content", "")) if asked else str(sample.get("prompt", ""))
    texts = {"asked": last, "base": sample.get("base", ""), "tuned": sample.get("tuned", "")}
    return {name: str(text)[:LONGEST_SAMPLE] for name, text in texts.items()}
