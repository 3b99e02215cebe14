"""`python -m appliance.stages STAGE JOB_DIR`: run one stage on a job directory.

Exit codes: 0 done, `result.json` is there · 2 the input is wrong, see `problems.json` · 3 the machine is not ready,
see `failure.json` · 1 it failed, see `failure.json` or, without one, `stage.log` · 4 it stopped because it was asked to
(SIGTERM) and can go on later · 5 the disk was full or broken, which `failure.json` says if there was room for it.
"""

import contextlib
import importlib
import os
import signal
import sys
import traceback
from pathlib import Path

from appliance.errors import ApplianceError, InputError, NotReadyError, StageFailure, Stopped
from appliance.exits import DISK, STOPPED, explain_refusal
from appliance.job import FailureClass, Stage
from appliance.job_dir import JobDir
from appliance.logs import redact_output
from appliance.processes import die_with_parent
from appliance.pushing import PushError
from appliance.settings import Settings
from appliance.stages.confinement import CONFINED, confine

OOM_SCORE = 500


def main() -> int:
    stage, job = Stage(sys.argv[1]), JobDir(Path(sys.argv[2]).resolve())
    die_with_parent()
    _die_first(stage)
    _stop_on_sigterm()
    settings = Settings.load()
    if settings.secrets():
        redact_output(settings.secrets())
    if stage in CONFINED:
        confine(stage, job, settings)
    return run(stage, job, settings)


def run(stage: Stage, job: JobDir, settings: Settings) -> int:
    """Run one stage to its end and leave word of what came of it. Returns the exit code."""
    try:
        return _run(stage, job, settings)
    except MemoryError:
        traceback.print_exc()
        message = f"memory ran out in the {stage} stage"
        job.write_failure(stage, StageFailure(FailureClass.WORKER_CRASHED, message).as_json())
        return StageFailure.exit_code
    except OSError as error:
        # A full disk, a share that went away: they can come from any line, and have words of their own.
        code, word = explain_refusal(error)
        # Where not even these can be written, the exit code has to do.
        with contextlib.suppress(OSError):
            traceback.print_exc()
        with contextlib.suppress(OSError):
            if word is not None:
                job.write_failure(stage, word)
        return code


def _run(stage: Stage, job: JobDir, settings: Settings) -> int:
    folder = job.stage(stage)
    for stale in ("problems.json", "failure.json"):
        (folder / stale).unlink(missing_ok=True)
    try:
        result = importlib.import_module(f"appliance.stages.{stage}").run(job, settings)
    except InputError as error:
        job.write_problems(stage, error.problems)
        return error.exit_code
    except (NotReadyError, PushError, StageFailure) as error:
        job.write_failure(stage, error.as_json())
        return error.exit_code
    except ApplianceError as error:
        # Nobody foresaw it in this stage, and what it says helps all the same.
        traceback.print_exc()
        job.write_failure(stage, StageFailure(FailureClass.INTERNAL, error.message, hint=error.hint).as_json())
        return error.exit_code
    except Stopped:
        return STOPPED
    job.write_result(stage, result)
    return 0


def _die_first(stage: Stage) -> None:
    """When the kernel must kill something for memory, let it be this: the job goes on from its last checkpoint."""
    if stage in (Stage.TRAIN, Stage.VERIFY):
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


def _stop_on_sigterm() -> None:
    """Stop where it stands, which loses nothing: a stage without a result starts again. Train saves first."""
    # os._exit and no exception: libraries swallow exceptions raised in the middle of their imports.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(STOPPED))


if __name__ == "__main__":
    code = main()
    if code == DISK:
        # The interpreter would end with a code of its own when the log cannot be flushed.
        os._exit(code)
    sys.exit(code)
