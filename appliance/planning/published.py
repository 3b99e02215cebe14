"""The shape figures of the shipped recipes' base models, for when their `config.json` is not on this machine. Pure.

Written by us from the public `config.json` of the repository that each is named after; only what planning reads. Where
a language model is wrapped, `tower_parameters` is what the repository's tensors have besides it.
"""

from collections.abc import Mapping
from typing import Any, Final

Figures = Mapping[str, Any]

_LLAMA_31_8B: Final = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": False,
}
_LLAMA_33_70B: Final = _LLAMA_31_8B | {
    "hidden_size": 8192,
    "intermediate_size": 28_672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
_QWEN3_8B: Final = {
    "model_type": "qwen3",
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": False,
}
_QWEN3_14B: Final = _QWEN3_8B | {
    "hidden_size": 5120,
    "intermediate_size": 17_408,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
}
_QWEN3_32B: Final = _QWEN3_8B | {
    "hidden_size": 5120,
    "intermediate_size": 25_600,
    "num_hidden_layers": 64,
    "num_attention_heads": 64,
}
_QWEN3_30B_A3B: Final = _QWEN3_8B | {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 262_144,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 768,
    "decoder_sparse_step": 1,
}
_MISTRAL_SMALL_24B: Final = {
    "model_type": "mistral",
    "hidden_size": 5120,
    "intermediate_size": 32_768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131_072,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
}
_GPT_OSS_20B: Final = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201_088,
    "max_position_embeddings": 131_072,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "tie_word_embeddings": False,
}
_QWEN35_9B_TEXT: Final = {
    "model_type": "qwen3_5_text",
    "hidden_size": 4096,
    "intermediate_size": 12_288,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "vocab_size": 248_320,
    "max_position_embeddings": 262_144,
    "tie_word_embeddings": False,
}
_QWEN35_27B_TEXT: Final = _QWEN35_9B_TEXT | {
    "hidden_size": 5120,
    "intermediate_size": 17_408,
    "num_hidden_layers": 64,
    "num_attention_heads": 24,
    "linear_num_value_heads": 48,
}
_GEMMA4_31B_TEXT: Final = {
    "model_type": "gemma4_text",
    "hidden_size": 5376,
    "intermediate_size": 21_504,
    "num_hidden_layers": 60,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "num_global_key_value_heads": 4,
    "head_dim": 256,
    "global_head_dim": 512,
    "attention_k_eq_v": True,
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "sliding_window": 1024,
    "vocab_size": 262_144,
    "max_position_embeddings": 262_144,
    "tie_word_embeddings": True,
}
_GEMMA4_12B_TEXT: Final = {
    name: figure for name, figure in _GEMMA4_31B_TEXT.items() if name != "hidden_size_per_layer_input"
} | {
    "model_type": "gemma4_unified_text",
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_global_key_value_heads": 1,
}

PUBLISHED: Final[Mapping[str, Figures]] = {
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "meta-llama/Llama-3.3-70B-Instruct": _LLAMA_33_70B,
    "Qwen/Qwen3-8B": _QWEN3_8B,
    "Qwen/Qwen3-14B": _QWEN3_14B,
    "Qwen/Qwen3-32B": _QWEN3_32B,
    "Qwen/Qwen3-30B-A3B-Instruct-2507": _QWEN3_30B_A3B,
    "mistralai/Mistral-Small-24B-Instruct-2501": _MISTRAL_SMALL_24B,
    "openai/gpt-oss-20b": _GPT_OSS_20B,
    "Qwen/Qwen3.5-9B": {
        "model_type": "qwen3_5",
        "text_config": _QWEN35_9B_TEXT,
        "tower_parameters": 456_010_480,
    },
    "Qwen/Qwen3.5-27B": {
        "model_type": "qwen3_5",
        "text_config": _QWEN35_27B_TEXT,
        "tower_parameters": 460_730_096,
    },
    "google/gemma-4-12B-it": {
        "model_type": "gemma4_unified",
        "text_config": _GEMMA4_12B_TEXT,
        "tower_parameters": 52_379_904,
    },
    "google/gemma-4-31B-it": {
        "model_type": "gemma4",
        "text_config": _GEMMA4_31B_TEXT,
        "tower_parameters": 575_741_232,
    },
}


def published_figures(base_model: str) -> Figures | None:
    """The figures of a shipped recipe's base model by its Hub id; None for any other."""
    return PUBLISHED.get(base_model)
