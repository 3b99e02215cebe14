"""QLoRA as a widely read course's script does it: the yardstick of bench/gpu.py for speed.

    python bench/plain_course.py SPEC.json RESULT.json

Plain transformers, PEFT and bitsandbytes: batch 4 × 4, gradient checkpointing, paged_adamw_32bit, every row padded to
the longest of its batch, no packing. No Unsloth, no TRL, nothing of the appliance. SPEC names the model and the
tokenised rows; RESULT gets the seconds and the real tokens of every step, padding not counted.
"""

import json
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

spec = json.loads(Path(sys.argv[1]).read_text())
has_gpu = torch.cuda.is_available()
tokenizer = AutoTokenizer.from_pretrained(spec["tokenizer"])
steps: list[dict[str, float]] = []


class Counting(DataCollatorForSeq2Seq):
    """Pads, and counts the real tokens of each micro-batch."""

    tokens: list[int]

    def __call__(self, features, return_tensors=None):  # noqa: ANN001, ANN204 # transformers' signature
        self.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        return super().__call__(features, return_tensors)


class Clock(TrainerCallback):
    """Notes when each step ended."""

    def __init__(self, accumulation: int) -> None:
        self.accumulation = accumulation
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **rest):  # noqa: ANN001, ANN201, ANN003 # transformers' signature
        if has_gpu:
            torch.cuda.synchronize()
        # The collator works ahead: the tokens of this step are the first that are not counted yet.
        first = len(steps) * self.accumulation
        now = time.monotonic()
        steps.append({"seconds": now - self.began, "tokens": sum(collator.tokens[first : first + self.accumulation])})
        self.began = now


quantisation = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
stored = "quantization_config" in json.loads((Path(spec["base"]) / "config.json").read_text())
model = AutoModelForCausalLM.from_pretrained(
    spec["base"],
    dtype=torch.bfloat16,
    device_map={"": 0} if has_gpu else {"": "cpu"},
    **({} if stored or not spec["load_in_4bit"] else {"quantization_config": quantisation}),
)
if not has_gpu:
    for module in model.modules():
        # On CPUs with AVX512-BF16 the first forward in eval mode packs the weights for a kernel without a backward.
        module.support_avx512bf16_for_cpu = False
model.config.use_cache = False
model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=True)
lora = LoraConfig(
    r=spec["r"], lora_alpha=spec["alpha"], target_modules=spec["target_modules"], task_type="CAUSAL_LM", bias="none"
)
model = get_peft_model(model, lora)
collator = Counting(tokenizer)
collator.tokens = []
Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=spec["output"],
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_steps=spec["steps"],
        learning_rate=2e-4,
        optim="paged_adamw_32bit" if has_gpu else "adamw_torch",
        bf16=True,
        use_cpu=not has_gpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    ),
    train_dataset=Dataset.from_file(spec["rows"]).select_columns(["input_ids", "labels"]),
    data_collator=collator,
    callbacks=[Clock(4)],
).train()
peak = torch.cuda.max_memory_reserved() if has_gpu else None
Path(sys.argv[2]).write_text(json.dumps({"steps": steps, "peak_reserved_bytes": peak}))
