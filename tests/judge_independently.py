"""`python -m tests.judge_independently BASE ADAPTER ROWS`: the verdict's numbers as a stranger would work them out.

Transformers, PEFT and bitsandbytes as their documentation has them, a loss and a bootstrap of its own, on the held-out
rows as they were dropped. Prints both losses, the difference and its 95 % interval.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

base, adapter, rows = sys.argv[1:]
four_bit = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16, quantization_config=four_bit, device_map="cpu")
model = PeftModel.from_pretrained(model, adapter).eval()
tokenizer = AutoTokenizer.from_pretrained(adapter)


def ids(messages: list[dict], **how: bool) -> list[int]:
    return tokenizer(tokenizer.apply_chat_template(messages, tokenize=False, **how), add_special_tokens=False).input_ids


def answer_loss(messages: list[dict]) -> tuple[float, int]:
    """The summed loss of the answer and its stop token, and how many tokens that is."""
    *prompt, answer = messages
    start = len(ids(prompt, add_generation_prompt=True))
    whole = ids([*prompt, answer])
    end = len(whole) - whole[::-1].index(tokenizer.eos_token_id)
    text = torch.tensor([whole[:end]])
    with torch.no_grad():
        chances = model(text).logits[0].float().log_softmax(-1)
    picked = [chances[place - 1, text[0, place]].item() for place in range(start, end)]
    return -sum(picked), len(picked)


conversations = [json.loads(line)["messages"] for line in Path(rows).read_text().splitlines()]
tuned = [answer_loss(messages) for messages in conversations]
with model.disable_adapter():
    plain = [answer_loss(messages) for messages in conversations]

changes = np.array([after - before for (after, _), (before, _) in zip(tuned, plain, strict=True)])
tokens = np.array([count for _, count in tuned])
# How often each row is drawn, in each of many samples of as many rows.
drawn = np.random.default_rng(7).multinomial(len(tokens), np.full(len(tokens), 1 / len(tokens)), size=1_000_000)
interval = np.percentile((drawn @ changes) / (drawn @ tokens), [2.5, 97.5])
total = int(tokens.sum())
print(
    json.dumps(
        {
            "base_loss": sum(loss for loss, _ in plain) / total,
            "tuned_loss": sum(loss for loss, _ in tuned) / total,
            "difference": changes.sum() / total,
            "interval": interval.tolist(),
            "rows": len(tokens),
            "tokens": total,
        }
    )
)
