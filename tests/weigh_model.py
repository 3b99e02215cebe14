"""How many bytes a loaded model has, quantisation state and code tables included.

`python -m tests.weigh_model FOLDER STORED MODULE…` loads it in 4 and in 16 bits, and once more after it was stored in 4
bits in STORED with those modules left in 16.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig


def load(folder, skipped: list[str] | None = None):
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=skipped,
    )
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=quantisation)


def weigh(model) -> int:
    tensors = [parameter.data for parameter in model.parameters()]
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            tensors += [state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


if __name__ == "__main__":
    folder, stored, modules = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    weights = {"in_4_bits": weigh(load(folder))}
    weights["in_16_bits"] = weigh(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16))
    load(folder, [*modules, "lm_head"]).save_pretrained(stored)
    weights["stored"] = weigh(AutoModelForCausalLM.from_pretrained(stored))
    shutil.copy(folder / "tokenizer.json", stored)
    print(json.dumps(weights))
