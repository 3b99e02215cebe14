"""Jobs whose verdict is known beforehand, small enough to train in seconds.

The demo model can repeat words. A dataset that wants them in a form it has never seen teaches it something; one that
wants other words than were asked for can only make it worse.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from appliance.job_dir import JobDir
from appliance.stages.training import demo_words
from tests.jobs import jsonl, make_job
from tests.training_jobs import ask

BATCHES = "effective_batch_size: 8\nper_device_train_batch_size: 8\n"


def some_texts(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.sample(demo_words.COMMON, 3)) for _ in range(count)]


def talk(text: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": f"Repeat: {text}"}, {"role": "assistant", "content": answer}]}


def in_a_form(texts: list[str]) -> list[dict]:
    """Rows that ask for a form the base does not know."""
    return [talk(text, f"words: {text} (end)") for text in texts]


def repeated(texts: list[str]) -> list[dict]:
    """Rows that the base answers well already."""
    return [talk(text, text) for text in texts]


def shuffled(texts: list[str]) -> list[dict]:
    """The same questions, each with the answer to another."""
    return [talk(text, other) for text, other in zip(texts, texts[1:] + texts[:1], strict=True)]


def job_of(folder: Path, name: str, train: list[dict], held_out: list[dict] | None, *recipe: str) -> JobDir:
    """A folder drop of `train.jsonl`, perhaps `eval.jsonl`, and a recipe."""
    folder.joinpath(name).mkdir(parents=True)
    files = {"train.jsonl": jsonl(train), "recipe.yaml": "base_model: demo\n" + BATCHES + "\n".join(recipe) + "\n"}
    return make_job(folder / name, files | ({"eval.jsonl": jsonl(held_out)} if held_out else {}))


def go_through_stages(jobs: Sequence[JobDir], folder: Path) -> None:
    """Every stage up to the verdict; each must succeed. Judging is done in a process that never trained."""
    for stages in ("check,fetch,prepare", "train", "verify"):
        codes = ask("tests.run_jobs", stages, *(job.path for job in jobs), APPLIANCE_STATE=str(folder / "state"))
        assert not any(codes.values()), codes
