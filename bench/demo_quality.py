"""How well the demo job taught the form and the content of an answer: base and tuned model on the held-out rows.

    python bench/demo_quality.py outbox/0001-support-tickets [--job JOB | --rows HELD_OUT.jsonl] [--json RESULT.json]

Plain transformers, PEFT and bitsandbytes, no Unsloth: what anyone who collects the adapter would write. The base is
quantised as it was in training, answers are greedy. Prints a table, and the same as JSON.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from datasets import Dataset
from peft import PeftModel
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerBase

from appliance.stages.training.make_demo_dataset import ANSWER_FORM

MODEL = Path(__file__).parents[1] / "appliance" / "demo" / "model"
BATCH = 25
Row = list[dict[str, str]]


@dataclass(frozen=True)
class Score:
    """Of all held-out rows: how many answers stopped, had the trained form, had each field right, were right whole."""

    rows: int
    stopped: int
    in_form: int
    team: int
    priority: int
    order: int
    exact: int


def main() -> None:
    """Score base and tuned model, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path, help="a published result: the folder that holds adapter/")
    given = parser.add_mutually_exclusive_group()
    given.add_argument("--job", type=Path, help="the job's directory; default: in the state folder beside the outbox")
    given.add_argument("--rows", type=Path, help="the held-out rows, as a .jsonl file")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    job = arguments.job or arguments.result.absolute().parents[1] / "state" / "jobs" / arguments.result.name
    if not arguments.rows and not (job / "prepare" / "eval.arrow").exists():
        parser.error(f"{job} holds no held-out rows; name the job's directory with --job, or the rows with --rows")
    rows = read_rows(arguments.rows) if arguments.rows else held_out_rows(job)
    tokenizer = AutoTokenizer.from_pretrained(arguments.result / "adapter")
    model = PeftModel.from_pretrained(load_base(), arguments.result / "adapter").eval()
    with model.disable_adapter():
        base = score(answers(model, tokenizer, rows), rows)
    scores = {"base": base, "tuned": score(answers(model, tokenizer, rows), rows)}
    Console(stderr=True).print(table(scores))
    text = json.dumps({name: asdict(each) for name, each in scores.items()}, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    sys.exit(0 if good_enough(**scores) else 1)


def read_rows(path: Path) -> list[Row]:
    """The conversations of a .jsonl file."""
    return [json.loads(line)["messages"] for line in path.read_text().splitlines()]


def held_out_rows(job: Path) -> list[Row]:
    """The rows that a job kept out of training."""
    numbers = set(Dataset.from_file(str(job / "prepare" / "eval.arrow"))["row"])
    rows = [json.loads(line) for line in (job / "check" / "rows.jsonl").read_text().splitlines()]
    return [row["messages"] for row in rows if row["row"] in numbers]


def load_base() -> torch.nn.Module:
    """The demo model in NF4 with double quantisation, computed in bf16."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(MODEL, quantization_config=quantisation, dtype=torch.bfloat16)


def answers(model: PeftModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> list[str]:
    """What the model says to each row's prompt, special tokens and all."""
    tokenizer.padding_side = "left"
    said: list[str] = []
    for start in range(0, len(rows), BATCH):
        prompts = [row[:-1] for row in rows[start : start + BATCH]]
        batch = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            ids = model.generate(**batch, max_new_tokens=96, do_sample=False)
        said += tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :])
    return said


def score(said: list[str], rows: list[Row]) -> Score:
    """Count what is right."""
    pairs = [(text.partition("<|im_end|>"), row[-1]["content"]) for text, row in zip(said, rows, strict=True)]
    found = [(ANSWER_FORM.fullmatch(text), ANSWER_FORM.fullmatch(right)) for (text, _, _), right in pairs]
    fields = {
        field: sum(bool(mine and right and mine[field] == right[field]) for mine, right in found)
        for field in ("team", "priority", "order")
    }
    return Score(
        rows=len(rows),
        stopped=sum(bool(end) for (_, end, _), _ in pairs),
        in_form=sum(mine is not None for mine, _ in found),
        exact=sum(text == right for (text, _, _), right in pairs),
        **fields,
    )


def table(scores: dict[str, Score]) -> Table:
    """The scores side by side, in percent."""
    shown = Table("", *scores, title="held-out rows")
    counts = {name: asdict(each) for name, each in scores.items()}
    for key in next(iter(counts.values())):
        cells = (f"{each[key]}" if key == "rows" else f"{each[key] / each['rows']:.0%}" for each in counts.values())
        shown.add_row(key.replace("_", " "), *cells)
    return shown


def good_enough(base: Score, tuned: Score) -> bool:
    """The demo's promise: the form in no base answer and nine of ten tuned ones, and 50 points more answers right."""
    return base.in_form == 0 and tuned.in_form >= 0.9 * tuned.rows and tuned.exact - base.exact >= 0.5 * tuned.rows


if __name__ == "__main__":
    main()
