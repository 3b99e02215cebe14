"""How to use a published adapter, as lines to copy. Pure."""

import json
from collections.abc import Mapping
from typing import Any, Final

DEMO: Final = "demo"

_DEMO_FOLDER: Final = 'str(files("appliance") / "demo" / "model")'
_NF4: Final = """\
quantization = BitsAndBytesConfig(
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
)"""
_VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def base_model_id(fetch: Mapping[str, Any]) -> str:
    """The name under which the world knows the base model, whichever copy of it was loaded; `fetch` is its result."""
    return str(fetch.get("base_model_id") or fetch["base_model_loaded"])


def base_model_commit(fetch: Mapping[str, Any]) -> str | None:
    """The base model's commit. None where another repository, with the same weights in 4 bits, was loaded."""
    commit = fetch["base_model_commit"]
    return str(commit) if commit and base_model_id(fetch) == fetch["base_model_loaded"] else None


def load_with_peft(base_model: str, *, commit: str | None, in_4bit: bool, adapter: str = "adapter") -> str:
    """Python that loads base and adapter with plain PEFT, in the precision they were trained and compared in."""
    is_demo = base_model == DEMO
    arguments = ["base_model", "dtype=torch.bfloat16"]
    arguments += [f"revision={json.dumps(commit)}"] if commit else []
    arguments += ["quantization_config=quantization"] if in_4bit else []
    lines = [
        *(["from importlib.resources import files", ""] if is_demo else []),
        "import torch",
        "from peft import PeftModel",
        f"from transformers import AutoModelForCausalLM, AutoTokenizer{', BitsAndBytesConfig' if in_4bit else ''}",
        "",
        f"base_model = {_DEMO_FOLDER if is_demo else json.dumps(base_model)}",
        *([_NF4] if in_4bit else []),
        "base = AutoModelForCausalLM.from_pretrained(",
        *(f"    {argument}," for argument in arguments),
        ")",
        f"model = PeftModel.from_pretrained(base, {json.dumps(adapter)})",
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(adapter)})",
    ]
    return "\n".join(lines)


def load_with_unsloth(*, in_4bit: bool, adapter: str = "adapter") -> str:
    """Python that loads base and adapter with Unsloth, which finds the base in the adapter's own configuration."""
    return "\n".join(
        [
            "from unsloth import FastLanguageModel",
            "",
            f"model, tokenizer = FastLanguageModel.from_pretrained({json.dumps(adapter)}, load_in_4bit={in_4bit})",
            "FastLanguageModel.for_inference(model)",
        ]
    )


def serve_with_vllm(base_model: str, *, commit: str | None, name: str, rank: int, adapter: str = "adapter") -> str:
    """The command that serves base and adapter side by side with vLLM; `name` is what requests ask for."""
    pieces = [f"vllm serve {base_model}", *([f"--revision {commit}"] if commit else []), "--enable-lora"]
    pieces += [f"--lora-modules {name}={adapter}", f"--max-lora-rank {vllm_rank(rank)}"]
    return " \\\n    ".join(pieces)


def vllm_rank(rank: int) -> int:
    """The smallest `--max-lora-rank` that vLLM knows and that holds `rank`."""
    return next((known for known in _VLLM_RANKS if known >= rank), rank)
