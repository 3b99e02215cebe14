"""What other trainers call the keys of our recipes, and which of their keys have no place in one."""

import difflib
from collections.abc import Mapping
from typing import Final

from appliance.recipe import EXPECTED

# PEFT, TRL, Unsloth, axolotl, LLaMA-Factory, torchtune, litgpt and what people write from memory.
_OURS: Final[Mapping[str, str]] = {
    "model": "base_model",
    "model_id": "base_model",
    "model_name": "base_model",
    "model_name_or_path": "base_model",
    "checkpoint_dir": "base_model",
    "model_revision": "revision",
    "stage": "method",
    "rl": "method",
    "data": "dataset",
    "datasets": "dataset",
    "dataset_name": "dataset",
    "data_path": "dataset",
    "train_file": "dataset",
    "val_set_size": "eval_fraction",
    "val_size": "eval_fraction",
    "test_size": "eval_fraction",
    "max_length": "max_seq_length",
    "max_seq_len": "max_seq_length",
    "sequence_len": "max_seq_length",
    "cutoff_len": "max_seq_length",
    "template": "chat_template",
    "train_on_inputs": "train_on",
    "train_on_responses_only": "train_on",
    "assistant_only_loss": "train_on",
    "completion_only_loss": "train_on",
    "sample_packing": "packing",
    "packed": "packing",
    "quantization_bit": "load_in_4bit",
    "r": "lora.r",
    "rank": "lora.r",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "lr": "learning_rate",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "max_norm": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "train_steps": "max_steps",
    "global_batch_size": "effective_batch_size",
    "batch_size": "effective_batch_size",
    "train_batch_size": "effective_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "use_gradient_checkpointing": "gradient_checkpointing",
    "load_best_model_at_end": "keep_best",
    "random_state": "seed",
    "random_seed": "seed",
    "prompts": "sample_prompts",
    "push_to_hub": "hub.push",
    "hub_model_id": "hub.repo",
    "hub_private_repo": "hub.public",
    "private": "hub.public",
}

_DECIDED_HERE: Final = "the appliance decides this by itself; remove the line"
_NO_CODE: Final = "code out of a model's repository is never run here; remove the line"
_NO_SECRETS: Final = "a recipe holds no tokens, and this one would be published with it; remove the line"
_REFUSED: Final[Mapping[str, str]] = {
    "trust_remote_code": _NO_CODE,
    "hub_token": _NO_SECRETS,
    "hf_token": _NO_SECRETS,
    "use_auth_token": _NO_SECRETS,
    "token": _NO_SECRETS,
    "hub_organization": "the organisation is set by whoever runs the appliance; remove the line",
    "gradient_accumulation_steps": "it is worked out from effective_batch_size; set that instead",
    "per_device_eval_batch_size": _DECIDED_HERE,
    "output_dir": "results go to the outbox; remove the line",
    "load_in_8bit": "weights are loaded in 4 or 16 bits; set load_in_4bit",
    **dict.fromkeys(
        ("bf16", "fp16", "tf32", "device_map", "report_to", "logging_steps", "save_steps", "save_strategy",
         "eval_steps", "eval_strategy", "save_total_limit", "deepspeed", "fsdp", "flash_attention", "adapter",
         "finetuning_type", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype", "num_workers",
         "dataset_num_proc", "resume_from_checkpoint", "wandb_project"),
        _DECIDED_HERE,
    ),
}  # fmt: skip


def explain_unknown(key: str) -> tuple[str, str | None]:
    """What to say of a key we do not know, and the key of ours that was most likely meant."""
    plain = key.lower().replace("-", "_").replace(" ", "_")
    last = plain.rpartition(".")[2]
    if last in _REFUSED:
        return f"{key}: {_REFUSED[last]}", None
    meant = _ours(plain, last)
    if meant is None:
        return f"{key} is not a recipe key; remove the line", None
    group, _, below = meant.rpartition(".")
    if meant == key:
        return f"{key} is written on two lines: {group}: and, indented below it, {below}:", meant
    if group and not key.startswith(f"{group}."):
        return f"{key} is not a recipe key; did you mean {below}, indented below {group}:?", meant
    return f"{key} is not a recipe key; did you mean {meant}?", meant


def _ours(plain: str, last: str) -> str | None:
    if plain in EXPECTED:
        return plain
    group = plain.rpartition(".")[0]
    candidates = {key.rpartition(".")[2]: key for key in EXPECTED if not group or key.startswith(f"{group}.")}
    if last in candidates and last != plain:
        return candidates[last]
    if last in _OURS:
        return _OURS[last]
    if last in candidates:
        return candidates[last]
    near = difflib.get_close_matches(last, [*candidates, *_OURS], n=1, cutoff=0.7)
    return (candidates.get(near[0]) or _OURS[near[0]]) if near else None
