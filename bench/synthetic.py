"""Models of true shape with random weights, and rows of realistic length, for the benchmarks: nothing is downloaded.

A model in 4 bits is written as bitsandbytes stores one, every layer of a kind with the same numbers: what is measured
depends on shapes, not on what the weights say.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from bitsandbytes.functional import quantize_4bit
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BitsAndBytesConfig, LlamaConfig, PreTrainedTokenizerFast

from appliance.files import write_json
from appliance.job import Job, JobState, Stage
from appliance.job_dir import JobDir
from appliance.planning.architectures import read_shape
from appliance.planning.machine import Machine
from appliance.planning.plan import DataFacts, Plan, make_plan
from appliance.recipe import Recipe
from appliance.stages.training.labels.examples_file import SCHEMA

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
PAD, STOP = 0, 1
SPREAD = 0.9
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
QUANTISATION = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)


def write_model(folder: Path, figures: Mapping[str, Any], *, in_4_bits: bool) -> Path:
    """A Llama of that shape, one file a layer, with a tokenizer. Written once: a folder that is there is taken."""
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    config = LlamaConfig(**{k: v for k, v in figures.items() if k != "model_type"}, pad_token_id=PAD, eos_token_id=STOP)
    hidden, vocabulary = config.hidden_size, config.vocab_size
    ends = {
        "model.embed_tokens.weight": _random(vocabulary, hidden),
        "model.norm.weight": torch.ones(hidden).bfloat16(),
    }
    if not config.tie_word_embeddings:
        ends["lm_head.weight"] = _random(vocabulary, hidden)
    layer = _layer(figures, hidden, in_4_bits=in_4_bits)
    names: dict[str, str] = {}
    for index in range(config.num_hidden_layers):
        file = f"model-layer-{index:03}.safetensors"
        tensors = {f"model.layers.{index}.{name}": tensor for name, tensor in layer.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, file)
    save_file(ends, folder / "model-ends.safetensors", metadata={"format": "pt"})
    names |= dict.fromkeys(ends, "model-ends.safetensors")
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": names})
    _write_tokenizer(folder)
    stored = {"quantization_config": QUANTISATION.to_dict()} if in_4_bits else {}
    # Last: its presence says that the model is complete.
    write_json(folder / "config.json", {**config.to_dict(), **stored, "architectures": ["LlamaForCausalLM"]})
    return folder


def _layer(figures: Mapping[str, Any], hidden: int, *, in_4_bits: bool) -> dict[str, torch.Tensor]:
    (kind,) = read_shape(figures).layers
    tensors = {f"{name}_layernorm.weight": torch.ones(hidden).bfloat16() for name in ("input", "post_attention")}
    for linear in kind.linears:
        block = "self_attn" if linear.suffix in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        weight, name = _random(linear.outputs, linear.inputs), f"{block}.{linear.suffix}.weight"
        tensors |= _quantised(name, weight) if in_4_bits else {name: weight}
    return tensors


def _quantised(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    packed, state = quantize_4bit(weight.to(DEVICE), compress_statistics=True, quant_type="nf4")
    parts = {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
    return {key: value.cpu().contiguous() for key, value in {name: packed, **parts}.items()}


def _random(rows: int, columns: int) -> torch.Tensor:
    return (torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16) * 0.02).cpu()


def _write_tokenizer(folder: Path) -> None:
    words = Tokenizer(models.WordLevel({"<pad>": PAD, "<stop>": STOP, "<unk>": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<stop>", unk_token="<unk>")
    fast.save_pretrained(folder)


@dataclass(frozen=True)
class Rows:
    """Tokenised rows; the first third of each is a prompt that is not trained."""

    input_ids: tuple[tuple[int, ...], ...]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def as_examples(self) -> list[dict[str, Any]]:
        return [
            {"input_ids": list(ids), "labels": [-100] * (len(ids) // 3) + list(ids[len(ids) // 3 :]), "row": number}
            for number, ids in enumerate(self.input_ids, start=1)
        ]


def full_rows(count: int, length: int, vocabulary: int) -> Rows:
    """Rows that are all as long as can be: what a plan counts with."""
    return _rows([length] * count, vocabulary)


def realistic_rows(count: int, longest: int, vocabulary: int) -> Rows:
    """Rows as chat datasets have them: log-normal, the median at an eighth of the longest."""
    rng = random.Random(1)
    lengths = [round(rng.lognormvariate(0, SPREAD) * longest / 8) for _ in range(count)]
    return _rows([min(max(length, 16), longest) for length in lengths], vocabulary)


def _rows(lengths: list[int], vocabulary: int) -> Rows:
    rng = random.Random(2)
    return Rows(tuple((*(rng.randrange(3, vocabulary) for _ in range(length - 1)), STOP) for length in lengths))


def prepared_job(
    folder: Path, name: str, model: Path, figures: Mapping[str, Any], rows: Rows, recipe: Recipe, machine: Machine
) -> tuple[JobDir, Plan]:
    """A job as far as the train stage, with the plan that the appliance makes for it."""
    job = JobDir(folder / f"0001-{name}")
    job.path.mkdir(parents=True)
    job.write_job(Job(1, job.path.name, name, name=name, state=JobState.QUEUED, created=0.0))
    write_json(job.stage(Stage.CHECK) / "recipe.json", recipe.model_dump(mode="json"))
    job.write_result(Stage.FETCH, {"base_model_loaded": name, "path": str(model)})
    prepare = job.stage(Stage.PREPARE)
    write_rows(prepare / "train.arrow", rows)
    (prepare / "samples.jsonl").write_text("")
    for file in model.glob("tokenizer*"):
        (prepare / "tokenizer").mkdir(exist_ok=True)
        (prepare / "tokenizer" / file.name).write_bytes(file.read_bytes())
    count, longest = len(rows.lengths), max(rows.lengths)
    data = DataFacts(count, count, rows.tokens, longest, lengths=len(set(rows.lengths)))
    plan = make_plan(recipe, read_shape(figures), data, machine)
    write_json(job.plan_file, plan.as_json())
    facts = {"train_rows": count, "eval_rows": 0, "stop_token_ids": [STOP], "pad_token_id": PAD}
    job.write_result(Stage.PREPARE, facts | {"type": "conversational", "answer_tokens_p95": 9})
    return job, plan


def write_rows(path: Path, rows: Rows) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, SCHEMA) as stream:
        stream.write_table(pa.Table.from_pylist(rows.as_examples(), SCHEMA))
