"""Tiny models of every kind that is trained in a way of its own: `python -m tests.make_tiny_model KIND FOLDER`.

Random weights under the demo model's tokenizer; wrapped ones have their towers.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

from tests.training_jobs import DEMO

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
DELTA = {
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
GLOBAL = {"global_head_dim": 64, "num_global_key_value_heads": 1, "attention_k_eq_v": True}
GEMMA = {"num_hidden_layers": 6, "head_dim": 32, "hidden_size_per_layer_input": 0, **GLOBAL}
TOWER = {"hidden_size": 32, "intermediate_size": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
QWEN_TOWER = {
    "vision_config": {**TOWER, "depth": 2, "num_heads": 2, "out_hidden_size": 64},
    **{name: 10 + n for n, name in enumerate(["image_token_id", "video_token_id"])},
    **{name: 12 + n for n, name in enumerate(["vision_start_token_id", "vision_end_token_id"])},
}
KINDS = {
    "qwen3_5": {"text_config": {**TEXT, **DELTA, "model_type": "qwen3_5_text"}, **QWEN_TOWER},
    "qwen3_5_moe": {
        "text_config": {
            **TEXT,
            **DELTA,
            **EXPERTS,
            "shared_expert_intermediate_size": 48,
            "model_type": "qwen3_5_moe_text",
        },
        **QWEN_TOWER,
    },
    "gemma3": {
        "text_config": {**TEXT, "head_dim": 16, "model_type": "gemma3_text"},
        "vision_config": {**TOWER, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28},
        **{f"{name}_token_index": 10 + n for n, name in enumerate(["image", "boi", "eoi"])},
        "mm_tokens_per_image": 4,
    },
    "gemma4": {
        "text_config": {**TEXT, **GEMMA, "model_type": "gemma4_text"},
        "vision_config": {
            **TOWER,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        **{f"{name}_token_id": 10 + n for n, name in enumerate(["image", "video", "audio", "boi", "eoi", "boa"])},
    },
    "qwen3_moe": {**TEXT, **EXPERTS, "head_dim": 16},
    "gpt_oss": {**TEXT, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 32},
}

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    figures = KINDS[kind]
    loader = AutoModelForImageTextToText if "vision_config" in figures else AutoModelForCausalLM
    torch.manual_seed(0)
    loader.from_config(CONFIG_MAPPING[kind](**figures), dtype=torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder)
    print(json.dumps({"folder": str(folder)}))
