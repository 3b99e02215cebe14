"""The published files under test: plain transformers and PEFT, no Unsloth, one load for base and tuned.

The base is quantised as it was in training, so that the adapter is the only difference that is measured.
"""

import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from appliance.errors import StageFailure
from appliance.job import FailureClass
from appliance.stages.training.checkpoints import describe
from appliance.stages.training.machine import device_map, drop_page_cache

IGNORED = -100
_POSITIONS_AT_ONCE = 4096


@dataclass(frozen=True)
class Row:
    """One tokenised row; `labels` are -100 where the model was not trained."""

    row: int
    input_ids: list[int]
    labels: list[int]


def broken(message: str) -> StageFailure:
    return StageFailure(
        FailureClass.BROKEN_ADAPTER,
        f"the adapter is broken: {message}",
        hint="Retry the job; if it comes back, the job's directory is a bug report.",
    )


def check_files(adapter: Path, written: dict[str, dict[str, Any]]) -> None:
    """Raise broken_adapter unless every file of the adapter is as training wrote it."""
    for name, entry in written.items():
        path = adapter / name
        if not path.is_file():
            raise broken(f"{name} is missing")
        if describe(path) != entry:
            raise broken(f"{name} is not the file that training wrote")


def load_tuned_model(base: Path, adapter: Path, trained: dict[str, Any]) -> PeftModel:
    """The base as it was loaded for training, with the adapter from its files. `trained` is train's result.

    Raises broken_adapter when the adapter cannot be loaded or is not the one that was trained.
    """
    model = AutoModelForCausalLM.from_pretrained(
        base,
        dtype=getattr(torch, trained["base_linear"]["dtype"]),
        device_map=device_map(),
        **_quantization(base, trained["quantization"]),
    )
    drop_page_cache(base)
    try:
        tuned = PeftModel.from_pretrained(model, str(adapter))
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise broken(f"it cannot be loaded: {error}") from error
    _check_tensors(tuned, adapter / "adapter_model.safetensors", sum(trained["target_modules"].values()))
    return tuned.eval()


def _quantization(base: Path, config: dict[str, Any] | None) -> dict[str, Any]:
    """A base that is stored in 4 bit brings its own configuration; giving it another is an error."""
    stored = json.loads((base / "config.json").read_text()).get("quantization_config")
    return {} if config is None or stored else {"quantization_config": BitsAndBytesConfig.from_dict(config)}


def _check_tensors(model: PeftModel, weights: Path, modules: int) -> None:
    with safe_open(weights, framework="pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # not a dict
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    if different := set(saved) ^ set(expected):
        raise broken(f"{len(different)} of its tensors do not match the model, the first is {min(different)}")
    if len(saved) != 2 * modules:
        raise broken(f"it holds {len(saved)} tensors, but {modules} modules were trained")
    if not_finite := [name for name, tensor in saved.items() if not torch.isfinite(tensor).all()]:
        raise broken(f"{len(not_finite)} of its tensors hold values that are not numbers, the first is {not_finite[0]}")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of an Arrow stream, one at a time."""
    with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as stream:
        for batch in stream:
            for entry in batch.to_pylist():
                yield Row(entry["row"], entry["input_ids"], entry["labels"])


def token_losses(model: PeftModel, input_ids: Sequence[int], labels: Sequence[int]) -> torch.Tensor:
    """The loss of every trained token of one row, in order."""
    ids = torch.tensor([list(input_ids)], device=model.device)
    targets = torch.tensor(list(labels)[1:], device=model.device)
    positions = (targets != IGNORED).nonzero().squeeze(-1)
    with torch.inference_mode():
        logits = _logits(model, ids, positions)
        parts = zip(logits.split(_POSITIONS_AT_ONCE), targets[positions].split(_POSITIONS_AT_ONCE), strict=True)
        return torch.cat([cross_entropy(part.float(), target, reduction="none") for part, target in parts]).double()


def _logits(model: PeftModel, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Only where something is to be predicted: over a whole long row they are the largest tensor there is."""
    attention = torch.ones_like(ids)
    if "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters:
        output = model(input_ids=ids, attention_mask=attention, use_cache=False, logits_to_keep=positions)
        kept: torch.Tensor = output.logits[0]
        return kept
    everything: torch.Tensor = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[0]
    return everything[positions]


def both_losses(model: PeftModel, input_ids: Sequence[int], labels: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses per trained token with the adapter off and on."""
    with model.disable_adapter():
        base = token_losses(model, input_ids, labels)
    return base, token_losses(model, input_ids, labels)
