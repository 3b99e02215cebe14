"""What `appliance demo` says when it cannot go on; that it ends well is seen by running it (`make demo`)."""

import subprocess
import sys
from dataclasses import replace

from appliance.commands.follow import Follower
from appliance.job import Waiting
from tests.jobs import make_job
from tests.small_disk import small_disk


def test_a_disk_without_room_is_named_before_anything_starts(tmp_path):
    with small_disk(tmp_path, 10**7):
        done = subprocess.run(
            [sys.executable, "-m", "appliance", "demo", "--keep", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert not (tmp_path / "daemon.log").exists()
    said = " ".join(done.stderr.split())
    assert (done.returncode, f"{tmp_path} has 10.0 MB free, and the demo needs 500 MB" in said) == (1, True), said
    assert "--keep" in said


def test_a_job_that_waits_says_for_what_once_for_each_reason(tmp_path, capsys):
    job = make_job(tmp_path, {"a.jsonl": "{}"}).read_job()
    held = replace(job, waiting=Waiting.MEMORY, waiting_detail="needs 2.0 GB [of 24]")
    with Follower(tmp_path) as follower:
        for seen in (job, held, held, replace(held, waiting=Waiting.DISK, waiting_detail="full"), job):
            follower.show(seen)
    assert capsys.readouterr().err.splitlines() == [
        "waits for memory: needs 2.0 GB [of 24]",
        "waits for disk space: full",
    ]
