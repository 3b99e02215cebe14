"""`python -m tests.plain_peft BASE ADAPTER TOKENS`: what anyone would write to use an adapter, without Unsloth.

Prints how many LoRA modules were loaded and how far the adapter moves the logits for the given token ids.
"""

import json
import sys

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter, tokens = sys.argv[1:]
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
ids = torch.tensor([json.loads(tokens)])
with torch.no_grad():
    tuned = model(ids).logits
    with model.disable_adapter():
        plain = model(ids).logits
tokenizer = AutoTokenizer.from_pretrained(adapter)
facts = {
    "modules": sum(isinstance(module, LoraLayer) for module in model.modules()),
    "moved_by": (tuned - plain).abs().max().item(),
    "chat": tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False),
    "unsloth": "unsloth" in sys.modules,
}
print(json.dumps(facts))
