"""QLoRA written plainly on transformers, PEFT and bitsandbytes: the yardstick of bench/parity.py.

    python bench/plain_reference.py SPEC.json RESULT.json

SPEC holds the numbers of recipe and plan, and which rows are trained on and held out. Everything else is done here
again, with nothing of the appliance: the chat template, the labels, the counts. No Unsloth, no TRL.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

spec = json.loads(Path(sys.argv[1]).read_text())
tokenizer = AutoTokenizer.from_pretrained(spec["base"])
Example = dict[str, list[int]]


def example(messages: list[dict[str, Any]]) -> Example:
    """One conversation; trained are the characters that each assistant message adds, up to its stop token."""
    text = render(messages)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    spans = [
        # The newline after the stop token belongs to the template.
        (len(render(messages[:turn], add_generation_prompt=True)), len(render(messages[: turn + 1]).rstrip("\n")))
        for turn, message in enumerate(messages)
        if message["role"] == "assistant"
    ]
    trained = [any(start <= first and last <= end for start, end in spans) for first, last in tokens["offset_mapping"]]
    ids = tokens["input_ids"]
    return {"input_ids": ids, "labels": [id if yes else -100 for id, yes in zip(ids, trained, strict=True)]}


def render(messages: list[dict[str, Any]], **arguments: bool) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **arguments)


def load_model() -> torch.nn.Module:
    """The base in NF4 with double quantisation, computed in bf16, under an adapter."""
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(spec["base"], quantization_config=quantisation, dtype=torch.bfloat16)
    for module in base.modules():
        if isinstance(module, Linear4bit):
            # On CPUs with AVX512-BF16 the first forward in eval mode packs the weights for a kernel without a backward.
            module.support_avx512bf16_for_cpu = False
    lora = LoraConfig(
        r=spec["r"],
        lora_alpha=spec["alpha"],
        lora_dropout=0,
        bias="none",
        target_modules=spec["target_modules"],
        task_type="CAUSAL_LM",
    )
    set_seed(spec["seed"])
    return get_peft_model(base, lora)


class CountingCollator(DataCollatorForSeq2Seq):
    """Pads, and notes how many tokens of each micro-batch are predicted: the first of a row never is."""

    def __init__(self) -> None:
        super().__init__(tokenizer)
        self.targets: list[int] = []

    def __call__(self, features, return_tensors=None):  # noqa: ANN001, ANN204 # transformers' signature
        self.targets.append(sum(label != -100 for feature in features for label in feature["labels"][1:]))
        return super().__call__(features, return_tensors)


class Diary(TrainerCallback):
    """Notes the loss of each step, and the tokens predicted so far."""

    def __init__(self, collator: CountingCollator) -> None:
        self.losses: list[float] = []
        self.target_tokens: list[int] = []
        self._collator = collator
        # The collator works one batch ahead.
        self._micro_batches = 0

    def on_substep_end(self, args, state, control, **rest):  # noqa: ANN001, ANN201, ANN003 # transformers' signature
        self._micro_batches += 1

    def on_step_end(self, args, state, control, **rest):  # noqa: ANN001, ANN201, ANN003
        self._micro_batches += 1
        self.target_tokens.append(sum(self._collator.targets[: self._micro_batches]))

    def on_log(self, args, state, control, logs, **rest):  # noqa: ANN001, ANN201, ANN003
        if "loss" in logs:
            self.losses.append(logs["loss"])


def held_out_loss(model: torch.nn.Module, examples: list[Example]) -> float:
    """Mean over all trained tokens, a row at a time."""
    model.eval()
    total, count = 0.0, 0
    for one in examples:
        targets = sum(label != -100 for label in one["labels"][1:])
        with torch.inference_mode(), torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**{name: torch.tensor([values], device=model.device) for name, values in one.items()}).loss
        total, count = total + loss.item() * targets, count + targets
    return total / count


conversations = {row["row"]: row["messages"] for row in map(json.loads, Path(spec["rows"]).read_text().splitlines())}
training, held_out = ([example(conversations[row]) for row in spec[name]] for name in ("train_rows", "eval_rows"))
model, collator = load_model(), CountingCollator()
diary = Diary(collator)
Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=spec["output"],
        per_device_train_batch_size=spec["micro_batch"],
        gradient_accumulation_steps=spec["accumulation"],
        gradient_checkpointing=spec["gradient_checkpointing"],
        max_steps=spec["steps"],
        warmup_steps=spec["warmup_steps"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type=spec["lr_scheduler_type"],
        weight_decay=spec["weight_decay"],
        max_grad_norm=spec["max_grad_norm"],
        optim=spec["optim"],
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        seed=spec["seed"],
        data_seed=spec["seed"],
        dataloader_pin_memory=False,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=training,
    data_collator=collator,
    callbacks=[diary],
).train()
result = {
    "losses": diary.losses,
    "target_tokens": diary.target_tokens,
    "tokens_trained": sum(label != -100 for one in training + held_out for label in one["labels"]),
    "held_out_losses": [held_out_loss(model, held_out)],
}
Path(sys.argv[2]).write_text(json.dumps(result))
