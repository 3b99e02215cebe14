"""`python -m tests.run_jobs STAGE,STAGE JOB...`: stages of several jobs in one process, each until one fails.

Prints the exit code of every job's last stage. One process for all, since importing torch takes longer than the work.
Training and verifying are never given to the same process: Unsloth patches what verify wants plain.
"""

import json
import sys
from pathlib import Path

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.__main__ import run


def run_through(job: JobDir, stages: list[Stage]) -> int:
    """The exit code of the last stage that was run."""
    return next((code for stage in stages if (code := run(stage, job, Settings.load()))), 0)


if __name__ == "__main__":
    stages = [Stage(name) for name in sys.argv[1].split(",")]
    codes = {path: run_through(JobDir(Path(path)), stages) for path in sys.argv[2:]}
    print(json.dumps(codes))
