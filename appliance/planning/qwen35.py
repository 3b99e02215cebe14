"""The layers of Qwen 3.5: three with a gated delta rule, then one with attention. Pure."""

from typing import Final

from appliance.planning.decoders import Config, attention_linears, heads_of, mlp_linears
from appliance.planning.experts import with_qwen_experts
from appliance.planning.model_shape import Layer, Linear

# The rule is worked out in chunks of this many tokens.
DELTA_CHUNK: Final = 64


def qwen3_5(text: Config, index: int) -> Layer:
    mlp = mlp_linears(text["hidden_size"], text["intermediate_size"])
    return _layer(text, index, mlp, text["intermediate_size"])


def qwen3_5_moe(text: Config, index: int) -> Layer:
    return with_qwen_experts(_layer(text, index, (), 0), text, shared=True)


def _layer(text: Config, index: int, mlp: tuple[Linear, ...], inner: int) -> Layer:
    hidden = text["hidden_size"]
    if _is_full(text, index):
        heads, bias = heads_of(text), bool(text.get("attention_bias", False))
        attention = attention_linears(hidden, heads, bias=bias, output_bias=bias, gated=True)
        return Layer((*attention, *mlp), 2 * heads.queries, heads.key_values, inner, 2 * hidden + 2 * heads.size)
    keys = text["linear_num_key_heads"] * text["linear_key_head_dim"]
    heads_v = text["linear_num_value_heads"]
    values = heads_v * text["linear_value_head_dim"]
    mixed = 2 * keys + values
    linears = (
        Linear("in_proj_qkv", hidden, mixed),
        Linear("in_proj_z", hidden, values),
        Linear("in_proj_b", hidden, heads_v),
        Linear("in_proj_a", hidden, heads_v),
        Linear("out_proj", values, hidden),
    )
    # A convolution over time, one decay and one bias for every head, and norms.
    others = mixed * text.get("linear_conv_kernel_dim", 4) + 2 * heads_v + text["linear_value_head_dim"] + 2 * hidden
    return Layer((*linears, *mlp), mixed, values, inner, others, window=DELTA_CHUNK)


def _is_full(text: Config, index: int) -> bool:
    types = text.get("layer_types")
    if types:
        return bool(types[index] == "full_attention")
    return (index + 1) % int(text.get("full_attention_interval", 4)) == 0
