"""What Transformers itself makes of a `config.json`: parameters, and every linear layer of the decoder.

`python -m tests.build_models FILE` reads `{name: config}` and prints `{name: {"total", "linears", "towers"}}`; it
allocates nothing.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText


def count(config: dict) -> dict:
    text = config.get("text_config", config)
    model = build(AutoModelForCausalLM, text)
    linears = Counter(
        f"{name.rsplit('.', 1)[-1]} {module.in_features} {module.out_features} {module.bias is not None}"
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    )
    total = sum(p.numel() for p in model.parameters())
    whole = build(AutoModelForImageTextToText, config) if "vision_config" in config else model
    towers = sum(p.numel() for p in whole.parameters()) - total
    # What the same model's config.json says after Transformers has saved it.
    return {"total": total, "linears": linears, "towers": towers, "saved": json.loads(model.config.to_json_string())}


def build(kind, config: dict):
    values = {key: value for key, value in config.items() if key not in ("model_type", "tower_parameters")}
    with torch.device("meta"):
        return kind.from_config(CONFIG_MAPPING[config["model_type"]](**values))


if __name__ == "__main__":
    print(json.dumps({name: count(config) for name, config in json.loads(Path(sys.argv[1]).read_text()).items()}))
