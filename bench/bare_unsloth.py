"""What Unsloth's documentation shows, on rows that are tokenised already: the yardstick of bench/overhead.py.

    python bench/bare_unsloth.py SPEC.json RESULT.json

SPEC holds the paths and numbers that the appliance's train stage reads; RESULT gets the time and loss of each step.
"""

import json
import sys
import time
from pathlib import Path

from unsloth import FastLanguageModel  # isort: skip

from datasets import Dataset
from transformers import TrainerCallback
from trl import SFTConfig, SFTTrainer

spec = json.loads(Path(sys.argv[1]).read_text())
steps: list[dict[str, float]] = []


class Clock(TrainerCallback):
    """Notes when each step's loss is known."""

    def on_log(self, args, state, control, logs, **rest):  # noqa: ANN001, ANN201, ANN003 # transformers' signature
        if "loss" in logs:
            steps.append({"time": time.time(), "loss": logs["loss"]})


model, tokenizer = FastLanguageModel.from_pretrained(
    model_name=spec["base"],
    max_seq_length=spec["max_seq_length"],
    load_in_4bit=True,
)
model = FastLanguageModel.get_peft_model(
    model,
    r=spec["r"],
    lora_alpha=spec["alpha"],
    lora_dropout=0,
    bias="none",
    target_modules=spec["target_modules"],
    use_gradient_checkpointing="unsloth" if spec["gradient_checkpointing"] else False,
    random_state=spec["seed"],
)
trainer = SFTTrainer(
    model=model,
    processing_class=tokenizer,
    train_dataset=Dataset.from_file(spec["rows"]),
    args=SFTConfig(
        output_dir=spec["output"],
        per_device_train_batch_size=spec["micro_batch"],
        gradient_accumulation_steps=spec["accumulation"],
        gradient_checkpointing=spec["gradient_checkpointing"],
        max_steps=spec["steps"],
        warmup_steps=spec["warmup_steps"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type=spec["lr_scheduler_type"],
        weight_decay=spec["weight_decay"],
        optim=spec["optim"],
        max_length=spec["max_seq_length"],
        seed=spec["seed"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
    ),
    callbacks=[Clock()],
)
trainer.train()
Path(sys.argv[2]).write_text(json.dumps(steps))
