"""Stage publish: what came of a job, whole, in the outbox. Every end of a job goes through it."""

import time
from pathlib import Path
from typing import Any

from appliance import outbox
from appliance.job import Outcome, Stage, outbox_name
from appliance.job_dir import JobDir
from appliance.settings import Settings
from appliance.stages.results import Ending, fill, manifest_facts


def run(job: JobDir, settings: Settings) -> dict[str, Any]:
    """Make the result visible in the outbox. Doing it again changes nothing."""
    record, facts = job.read_job(), job.outcome()
    assert facts is not None, "the daemon writes the outcome before it starts this stage"
    ending = Ending(
        job=record,
        dir=job,
        outcome=Outcome(facts["outcome"]),
        facts=facts,
        finished=time.time(),
        with_dataset=settings.keep_datasets == "outbox",
    )

    def fill_staging(staging: Path) -> None:
        fill(staging, ending)

    path = outbox.publish(
        settings.outbox,
        outbox_name(record.id, ending.outcome),
        job_uuid=record.uuid,
        fill=fill_staging,
        facts=lambda: manifest_facts(ending),
    )
    return {
        "path": path.name,
        "stage": Stage.PUBLISH,
        "manifest_sha256": outbox.manifest_sha256(path),
        # As it stands there: what was published before a restart was published by the settings of that time.
        "with_dataset": (path / "dropped").is_dir(),
    }
