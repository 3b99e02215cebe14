"""The queue against a model of it: dropped, cancelled, failed, finished, run again, paused and crashed in any order.

The store, the pipeline and the crew are real; what a stage does and when the machine goes down is Hypothesis's choice.
"""

import shutil
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.again import Reruns
from appliance.crew import Crew
from appliance.job import ENDED, LANES, Job, Lane, Outcome, Stage, Waiting, outbox_name
from appliance.job_dir import JobDir
from appliance.pipeline import Pipeline
from appliance.places import Places
from appliance.pushes import Pushes
from appliance.settings import Settings
from appliance.store import Store
from appliance.tidying import clean
from appliance.wishes import Wishes
from tests.jobs import make_job
from tests.line import NOBODY, RULES, fast_folder

EXAMPLES, STEPS, ATTEMPTS = 500, 25, 3
COPY_SECONDS = 60.0


@dataclass
class Process:
    """A stage that ends when, and as, the test says."""

    code: int | None = None
    pid: int = NOBODY

    def poll(self) -> int | None:
        return self.code

    def ask_to_stop(self) -> None:
        self.code = 4

    def kill(self) -> None:
        self.code = -9


def start(stage: Stage, job_dir: JobDir) -> Process:
    return Process()


@dataclass
class Model:
    """All that has to be known of a job to say how it ends."""

    origin: int
    """The job that was dropped, of which this one is a retry, or a retry of a retry; its own number."""
    is_twin: bool = False
    """Whether the same waited or ran already when it came."""
    failures: dict[Stage, int] = field(default_factory=dict)
    cancelled: bool = False

    @property
    def may_end(self) -> set[str]:
        if self.is_twin:
            return {"rejected"}
        given_up = any(times >= ATTEMPTS for stage, times in self.failures.items() if stage is not Stage.PUBLISH)
        # Given up and cancelled: whichever was written down first.
        return ({"cancelled"} if self.cancelled else set()) | ({"failed"} if given_up else set()) or {"succeeded"}


class Queue(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="queue-", dir=fast_folder(Path(tempfile.gettempdir()))))
        self.places = Places(self.root, self.root / "outbox", self.root / "recipes")
        for folder in (self.places.jobs, self.places.outbox, self.places.recipes):
            folder.mkdir()
        self.model: dict[int, Model] = {}
        self.asked: list[int] = []
        self.paused, self.now = False, 1000.0
        self.open()

    def open(self) -> None:
        self.store = Store(self.root / "appliance.sqlite")
        self.pipeline = Pipeline(self.store, self.places.jobs, ATTEMPTS, "boot", RULES)
        self.crew = Crew(self.pipeline, self.store, start=start)
        pushes = Pushes(self.store, Settings(), job_dir=self.pipeline.dir, start=start, boot_id="boot")
        self.wishes = Wishes(self.store, self.crew, pushes)
        self.crew.recover(self.now)
        shutil.rmtree(self.places.incoming, ignore_errors=True)
        self.places.incoming.mkdir()
        self.copied = threading.Event()
        self.reruns = Reruns(self.store, self.places, "installation", wake=self.copied.set)

    def teardown(self) -> None:
        self.resume()
        self.turn()
        for _ in range(30 * (len(self.model) + 1)):
            for running in list(self.crew.running.values()):
                self.end(running.job.number, 0)
        assert [job.id for job in self.store.active_jobs()] == []
        for number, model in self.model.items():
            assert self.job(number).state in model.may_end, (self.job(number), model, self.store.events(number))
        finished = {labels["outcome"]: n for name, labels, n in self.store.counters() if name == "jobs_finished_total"}
        assert sum(finished.values()) == len(self.model)
        assert list(self.places.incoming.iterdir()) == []
        self.close()
        shutil.rmtree(self.root)

    def close(self) -> None:
        self.reruns.close()
        # A process that goes down takes its threads along.
        self.reruns._copies.shutdown(wait=True)
        self.store.close()

    # What may happen

    @rule()
    def drop(self) -> None:
        number = len(self.model) + 1
        files = {"a.jsonl": f'{{"text": "row {number}"}}\n', "a.yaml": "base_model: demo\n"}
        self.store.add_job(make_job(self.places.jobs, files, number=number).read_job())
        self.model[number] = Model(number)
        self.turn()

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.end(self.pick(data), 0)

    @precondition(lambda self: self.crew.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        number = self.pick(data)
        self.count_failure(number)
        self.end(number, -9)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.model)))
        decided = self.pipeline.dir(self.job(number)).outcome() is not None
        self.model[number].cancelled |= not decided and self.job(number).state not in ENDED
        self.wishes.cancel(number, self.now, self.now)
        self.turn()

    @precondition(lambda self: self.ended())
    @rule(data=st.data(), goes_down=st.booleans())
    def retry(self, data: st.DataObject, goes_down: bool) -> None:
        target = data.draw(st.sampled_from(self.ended()))
        self.store.ask("retry", str(target), now=self.now)
        if self.job(target).state != "succeeded":
            self.asked.append(target)
        if goes_down:
            self.reruns.turn(self.now)
            self.crash()
        self.turn()

    @rule()
    def pause(self) -> None:
        self.paused = True
        self.turn()

    @rule()
    def resume(self) -> None:
        self.paused = False
        self.turn()

    @rule()
    def crash(self) -> None:
        for running in self.crew.running.values():
            if running.process.poll() is None:
                self.count_failure(running.job.number)
        self.close()
        self.open()
        self.turn()

    # How it happens

    def turn(self) -> None:
        # Longer than any pause.
        self.now += 4000.0
        before = set(self.crew.running)
        for job, _, _ in self.crew.reap(self.now, wall=self.now):
            if job.state in ENDED:
                clean(job, self.pipeline.dir(job), self.store)
        self.run_again()
        closed = (Waiting.PAUSED, "") if self.paused else None
        self.crew.start(self.crew.waiting(self.now), self.now, wall=self.now, gpu=closed)
        if self.paused:
            assert not [n for n in set(self.crew.running) - before if LANES[self.crew.running[n].stage] is Lane.GPU]

    def run_again(self) -> None:
        """Take in every retry that was asked for, in that order."""
        while self.asked:
            born = self.reruns.turn(self.now)
            for job in born:
                origin = self.model[self.asked.pop(0)].origin
                # A dropped job has ended before it can be run again.
                same = [n for n, model in self.model.items() if model.origin == origin and not model.is_twin]
                self.model[job.number] = Model(origin, is_twin=any(self.is_to_come(self.job(n)) for n in same))
            assert born or self.copied.wait(COPY_SECONDS)
            self.copied.clear()

    def is_to_come(self, job: Job) -> bool:
        """Whether a result of this one will come: what was cancelled, or has failed, only gives its files back."""
        return job.state not in ENDED and not job.cancel_requested and job.outcome in (None, Outcome.SUCCEEDED)

    def end(self, number: int, code: int) -> None:
        running = self.crew.running[number]
        if running.process.poll() is None:
            if code == 0:
                self.write_result(self.pipeline.dir(running.job), running.stage)
            running.process.code = code  # type: ignore[attr-defined]
        self.turn()

    def write_result(self, job_dir: JobDir, stage: Stage) -> None:
        if stage is Stage.PUBLISH:
            job, facts = job_dir.read_job(), job_dir.outcome()
            assert facts is not None
            result = self.places.outbox / outbox_name(job.id, Outcome(facts["outcome"]))
            shutil.copytree(job_dir.dropped, result / "dropped", dirs_exist_ok=True)
        said = {"verdict": "improved"} if stage is Stage.VERIFY else {"manifest_sha256": ""}
        job_dir.write_result(stage, said)

    def count_failure(self, number: int) -> None:
        stage, failures = self.crew.running[number].stage, self.model[number].failures
        failures[stage] = failures.get(stage, 0) + 1

    def pick(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.crew.running)))

    def ended(self) -> list[int]:
        return [number for number in sorted(self.model) if self.job(number).state in ENDED]

    def job(self, number: int) -> Job:
        job = self.store.job(number)
        assert job is not None
        return job

    # What always holds

    @invariant()
    def one_stage_a_job_and_one_on_the_gpu(self) -> None:
        assert len(self.crew.on_gpu) <= 1
        running = {job.number for job in self.store.active_jobs() if job.state == "running"}
        assert running == set(self.crew.running)

    @invariant()
    def whoever_has_ended_ended_as_it_had_to(self) -> None:
        for number, model in self.model.items():
            job = self.job(number)
            assert job.state not in ENDED or job.state in model.may_end, (job, model)


TestQueue = Queue.TestCase
TestQueue.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    # Where examples are kept would be a folder in the checkout.
    database=None,
)
