"""Layers with a mixture of experts in place of the MLP. Pure."""

from dataclasses import replace

from appliance.planning.decoders import (
    MLP,
    Config,
    attention_linears,
    heads_of,
    mlp_linears,
    plain,
    qwen2,
    qwen3,
    window_of,
)
from appliance.planning.model_shape import Layer, Linear


def gpt_oss(text: Config, index: int) -> Layer:
    hidden, inner, heads = text["hidden_size"], text["intermediate_size"], heads_of(text)
    count, used = expert_count(text), text["num_experts_per_tok"]
    expert = 3 * hidden * inner + 2 * inner + hidden
    return Layer(
        attention_linears(hidden, heads, bias=True, output_bias=True),
        heads.queries,
        heads.key_values,
        used * inner,
        # Norms, one sink for every head, the router.
        2 * hidden + text["num_attention_heads"] + count * (hidden + 1),
        expert_parameters=count * expert,
        active_expert_parameters=used * expert,
        window=window_of(text, index, pattern=2, default=128),
    )


def mixtral(text: Config, index: int) -> Layer:
    count, used = expert_count(text), text["num_experts_per_tok"]
    return _with_experts(plain(text, index), text, count=count, used=used, inner=text["intermediate_size"])


def qwen2_moe(text: Config, index: int) -> Layer:
    dense = qwen2(text, index)
    return with_qwen_experts(dense, text, shared=True) if _is_sparse(text, index) else dense


def qwen3_moe(text: Config, index: int) -> Layer:
    dense = qwen3(text, index)
    return with_qwen_experts(dense, text) if _is_sparse(text, index) else dense


def _is_sparse(text: Config, index: int) -> bool:
    only_dense, step = text.get("mlp_only_layers") or (), text.get("decoder_sparse_step", 1)
    return index not in only_dense and expert_count(text) > 0 and (index + 1) % step == 0


def expert_count(text: Config) -> int:
    """By the name that repositories have, or the one that Transformers 5 writes."""
    count = text.get("num_local_experts")
    return int(text["num_experts"] if count is None else count)


def with_qwen_experts(layer: Layer, text: Config, *, shared: bool = False) -> Layer:
    count, used, inner = expert_count(text), text["num_experts_per_tok"], text["moe_intermediate_size"]
    return _with_experts(
        layer,
        text,
        count=count,
        used=used,
        inner=inner,
        shared=text["shared_expert_intermediate_size"] if shared else 0,
    )


def _with_experts(layer: Layer, text: Config, *, count: int, used: int, inner: int, shared: int = 0) -> Layer:
    """The same layer with experts and a router in place of its MLP; perhaps one more that every token visits."""
    hidden = text["hidden_size"]
    attention = tuple(linear for linear in layer.linears if linear.suffix not in MLP)
    always = (*mlp_linears(hidden, shared), Linear("shared_expert_gate", hidden, 1, adapted=False)) if shared else ()
    expert = 3 * hidden * inner
    return replace(
        layer,
        linears=(*attention, *always),
        mlp_size=used * inner + shared,
        other_parameters=layer.other_parameters + count * hidden,
        expert_parameters=count * expert,
        active_expert_parameters=used * expert,
    )
