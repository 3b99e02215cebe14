"""Jobs that are ready to train: the demo base and a tiny dataset, laid out as check, fetch and prepare lay it out."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from appliance.job import Stage
from appliance.job_dir import JobDir
from appliance.progress import parse_lines
from appliance.recipe import Recipe
from tests.jobs import make_job, start_stage

DEMO = Path(__file__).parents[1] / "appliance" / "demo" / "model"
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STOP, PAD = 2, 0
# Dropout and NEFTune draw random numbers in every micro-batch: a resume that loses its place in them is seen.
NOISE = {"lora": {"dropout": 0.1}, "neftune_noise_alpha": 5}


def ready_to_train(
    folder: Path, *, rows: int = 60, eval_rows: int = 20, micro_batch: int = 4, accumulation: int = 2, **recipe: object
) -> JobDir:
    """A job directory as `prepare` leaves it. The task: repeat the middle of what came before, then stop."""
    job = make_job(folder, {"test.jsonl": "{}\n"})
    values = {"base_model": "demo", "learning_rate": 5e-3, "num_train_epochs": 3, **recipe}
    (job.stage(Stage.CHECK) / "recipe.json").write_text(Recipe.model_validate(values).model_dump_json())
    job.write_result(Stage.FETCH, {"base_model_loaded": "demo", "path": str(DEMO)})
    prepare, rng = job.stage(Stage.PREPARE), random.Random(1)
    write_rows(prepare / "train.arrow", [tokenised(rng, row) for row in range(1, rows + 1)])
    held_out = [tokenised(rng, row) for row in range(rows + 1, rows + eval_rows + 1)]
    if held_out:
        write_rows(prepare / "eval.arrow", held_out)
    (prepare / "samples.jsonl").write_text("".join(json.dumps(sample(row)) + "\n" for row in held_out[:4]))
    shutil.copytree(DEMO, prepare / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors", "*config.json"))
    shutil.copy(DEMO / "tokenizer_config.json", prepare / "tokenizer")
    write_plan(job, micro_batch, accumulation)
    facts = {"train_rows": rows, "eval_rows": len(held_out), "stop_token_ids": [STOP], "pad_token_id": PAD}
    job.write_result(Stage.PREPARE, facts | {"type": "conversational", "answer_tokens_p95": 9})
    return job


def write_plan(job: JobDir, micro_batch: int, accumulation: int) -> None:
    """The plan, with an optimizer step cut into `accumulation` micro-batches."""
    plan = {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_checkpointing": False,
        "max_seq_length": 256,
        "num_train_epochs": 3,
        "warmup_steps": 2,
        "packing": False,
        "optim": "adamw_8bit",
        "target_modules": MODULES,
        "target_module_count": 28,
    }
    (job.stage(Stage.PREPARE) / "plan.json").write_text(json.dumps(plan))


def tokenised(rng: random.Random, row: int) -> dict[str, list[int] | int]:
    prompt = [rng.randint(300, 360) for _ in range(rng.randint(12, 40))]
    answer = [*prompt[3:11], STOP]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer, "row": row}


def sample(row: dict) -> dict:
    prompt = row["input_ids"][: row["labels"].count(-100)]
    return {"row": row["row"], "messages": [], "prompt_ids": prompt, "answer": None}


def write_rows(path: Path, rows: list[dict]) -> None:
    tokens = pa.list_(pa.int32())
    schema = pa.schema({"input_ids": tokens, "labels": tokens, "row": pa.int64()})
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema))


def events(job: JobDir, stage: Stage = Stage.TRAIN) -> list[dict]:
    path = job.path / stage / "progress.jsonl"
    return parse_lines(path.read_text()) if path.exists() else []


def start_training(job: JobDir, **environment: str):
    return start_stage(Stage.TRAIN, job, APPLIANCE_STATE=str(job.path.parent / "state"), **environment)


def wait_for(job: JobDir, happened: Callable[[dict], bool], process, *, seconds: float = 120) -> None:
    """Return once an event of the running train stage satisfies `happened`."""
    deadline = time.monotonic() + seconds
    while not any(happened(event) for event in events(job)):
        assert process.poll() is None, (job.path / Stage.TRAIN / "stage.log").read_text()[-3000:]
        assert time.monotonic() < deadline, events(job)[-3:]
        time.sleep(0.005)


def ask(module: str, *arguments: object, **environment: str) -> dict:
    """What one of the tests' own scripts prints, run in a process of its own."""
    output = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        check=True,
        timeout=240,
        # The second is what the stages set too: spinning threads would starve each other on a busy machine.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment},
    ).stdout
    return json.loads(output.splitlines()[-1])
