"""`python -m tests.run_out_of_memory STEP JOB_DIR`: the train stage, out of memory unless its pieces are small.

The error is the one of torch's allocator on a GPU, in the middle of the step after STEP; everything else is real.
"""

import json
import sys
from pathlib import Path

from appliance.stages.__main__ import main
from appliance.stages.training.attempt import Attempt

FITS = 2


def run_out_after(step: int, job: Path) -> None:
    plan = json.loads((job / "prepare" / "plan.json").read_text())
    right = Attempt.end_micro_batch

    def end_micro_batch(self: Attempt) -> None:
        right(self)
        if self.standing.step >= step and plan["per_device_train_batch_size"] > FITS:
            import torch

            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.40 GiB.")

    Attempt.end_micro_batch = end_micro_batch  # type: ignore[method-assign]


if __name__ == "__main__":
    run_out_after(int(sys.argv[1]), Path(sys.argv[2]))
    sys.argv[1:] = ["train", sys.argv[2]]
    sys.exit(main())
