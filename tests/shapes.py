"""Shape figures to test with: those that ship, some more that were published, and small ones of every architecture."""

from appliance.planning.published import PUBLISHED

LLAMA_31_8B = PUBLISHED["meta-llama/Llama-3.1-8B-Instruct"]
LLAMA_33_70B = PUBLISHED["meta-llama/Llama-3.3-70B-Instruct"]
QWEN3_8B = PUBLISHED["Qwen/Qwen3-8B"]
QWEN3_32B = PUBLISHED["Qwen/Qwen3-32B"]
GPT_OSS_20B = PUBLISHED["openai/gpt-oss-20b"]
QWEN3_30B_A3B = PUBLISHED["Qwen/Qwen3-30B-A3B-Instruct-2507"]

MISTRAL_7B = {  # mistralai/Mistral-7B-v0.1
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
LLAMA_65B = LLAMA_31_8B | {  # the largest of the first Llamas: the model of the QLoRA paper's claim
    "hidden_size": 8192,
    "intermediate_size": 22016,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
QWEN25_7B = {  # Qwen/Qwen2.5-7B-Instruct
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
}
QWEN25_05B = QWEN25_7B | {  # Qwen/Qwen2.5-0.5B-Instruct
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
}
PHI_4 = {  # microsoft/phi-4
    "model_type": "phi3",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 10,
    "vocab_size": 100352,
    "max_position_embeddings": 16384,
    "tie_word_embeddings": False,
    "pad_token_id": 100349,
}
# mistralai/Mistral-Small-3.1-24B-Instruct-2503: a multimodal wrapper around a dense language model.
MISTRAL_SMALL_24B = {
    "model_type": "mistral3",
    "text_config": MISTRAL_7B
    | {
        "hidden_size": 5120,
        "intermediate_size": 32768,
        "num_hidden_layers": 40,
        "head_dim": 128,
        "vocab_size": 131072,
        "max_position_embeddings": 131072,
    },
    "vision_config": {"model_type": "pixtral", "hidden_size": 1024},
}

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_GEMMA_4 = {"head_dim": 32, "global_head_dim": 64, "hidden_size_per_layer_input": 0}
_DELTA = {
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
# Every figure that changes what there is, turned at least once.
TINY = {
    "llama with biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "granite": {"model_type": "granite", "tie_word_embeddings": True},
    "ministral 3": {"model_type": "ministral3", "head_dim": 16},
    "qwen 2, tied": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen 2 moe": {"model_type": "qwen2_moe", "shared_expert_intermediate_size": 48, **_EXPERTS},
    "qwen 3 moe": {"model_type": "qwen3_moe", "decoder_sparse_step": 2, "mlp_only_layers": [3], **_EXPERTS},
    "qwen 3.5": {"model_type": "qwen3_5_text", "layer_types": ["linear_attention", "full_attention"] * 3, **_DELTA},
    "qwen 3.5 moe": {"model_type": "qwen3_5_moe_text", "shared_expert_intermediate_size": 48, **_DELTA, **_EXPERTS},
    "gemma 2": {"model_type": "gemma2", "head_dim": 32},
    "gemma 3": {"model_type": "gemma3_text", "head_dim": 32},
    "gemma 4 that borrows": {
        "model_type": "gemma4_text",
        **_GEMMA_4,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 128,
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
    },
    "gemma 4 moe": {
        "model_type": "gemma4_text",
        **_GEMMA_4,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "enable_moe_block": True,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 32,
    },
    "phi 3": {"model_type": "phi3"},
    "gpt-oss": {"model_type": "gpt_oss", "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
}
TINY = {name: _TINY | figures for name, figures in TINY.items()}

# The towers of the wrapped models that ship, by the figures of their `vision_config` and `audio_config`.
_GEMMA_4_TOWER = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 72,
}
TOWERS = {
    "Qwen/Qwen3.5-9B": {"vision_config": {"out_hidden_size": 4096}},
    "Qwen/Qwen3.5-27B": {"vision_config": {"out_hidden_size": 5120}},
    "google/gemma-4-12B-it": {"vision_config": {}, "audio_config": {}},
    "google/gemma-4-31B-it": {"vision_config": _GEMMA_4_TOWER},
}
