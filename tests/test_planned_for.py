"""What is planned while the GPU does not answer: nothing where one belongs, a training on the CPU where none does."""

from pathlib import Path

import pytest

from appliance.gpu_presence import CUDA_LIBRARY, find_fault
from appliance.job import Stage, Waiting
from tests.jobs import jsonl, make_job, run_stage, run_stages
from tests.labelled_rows import rows_of

pytestmark = pytest.mark.skipif(find_fault() is None, reason="this machine has a GPU that answers")


@pytest.fixture(scope="module")
def cuda_libraries(tmp_path_factory) -> str:
    """A folder for PYTHONPATH in which the package lies that only installations for a GPU have."""
    folder: Path = tmp_path_factory.mktemp("libraries")
    package = folder / f"{CUDA_LIBRARY.replace('-', '_')}-13.0.96.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {CUDA_LIBRARY}\nVersion: 13.0.96\n")
    return str(folder)


def test_a_broken_driver_is_waited_for_and_the_job_gets_no_plan_for_the_cpu(tmp_path, cuda_libraries):
    job = make_job(tmp_path, {"data.jsonl": jsonl(rows_of(60)), "r.yaml": "base_model: demo\n"})
    run_stages(job, Stage.CHECK)

    for stage in (Stage.FETCH, Stage.PREPARE):
        assert run_stage(stage, job, PYTHONPATH=cuda_libraries) == 3
        failure = job.failure(stage)
        assert failure is not None
        assert failure["waiting"] == Waiting.GPU
        assert "no GPU" in failure["message"]
        assert job.plan() is None

        # Without these libraries no GPU is missed.
        run_stages(job, stage)
    plan = job.plan()
    assert plan is not None
    assert plan["machine_kind"] == "cpu"
