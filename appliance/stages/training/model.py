"""The base model as Unsloth loads it, with the adapter that is to be trained."""

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# First: it patches the libraries imported below.
from unsloth import FastLanguageModel  # isort: skip

import safetensors.torch
import torch
from bitsandbytes.nn import Linear4bit
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from appliance.errors import StageFailure
from appliance.job import FailureClass
from appliance.stages.training.machine import device_map, drop_page_cache, has_gpu, own_weights
from appliance.stages.training.prepared import Prepared

TOWERS = "vision|visual|audio"
PACKAGES = ("unsloth", "unsloth_zoo", "torch", "transformers", "trl", "peft", "bitsandbytes", "accelerate", "datasets")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to train, and what was found in it."""

    model: PeftModel
    trainable_parameters: int
    target_modules: dict[str, int]
    base_linear: dict[str, Any]
    quantization: dict[str, Any] | None


def load_model(prepared: Prepared) -> LoadedModel:
    """Load the base in NF4 (or 16 bit) and put the adapter on the planned modules, all of them."""
    base = _load_base(prepared)
    model = _put_adapter_on(base, prepared)
    adapted = _adapted_modules(model)
    _check_targets(adapted, prepared)
    quantization = getattr(base.config, "quantization_config", None)
    return LoadedModel(
        model=model,
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        target_modules=dict(Counter(name.rsplit(".", 1)[-1] for name in adapted)),
        base_linear=_describe_linear(adapted),
        quantization=quantization.to_dict() if quantization is not None else None,
    )


def _load_base(prepared: Prepared) -> PreTrainedModel:
    model, _ = FastLanguageModel.from_pretrained(
        str(prepared.base),
        max_seq_length=prepared.plan.max_seq_length,
        load_in_4bit=prepared.recipe.load_in_4bit,
        device_map=device_map(),
        use_gradient_checkpointing=_checkpointing(prepared),
        random_state=prepared.recipe.seed,
        # On a CPU Unsloth loads it so by itself, and does not know the word.
        **({"text_only": True} if has_gpu() and _is_loaded_alone(prepared.base) else {}),
    )
    own_weights(model)
    drop_page_cache(prepared.base)
    return model


def _put_adapter_on(base: PreTrainedModel, prepared: Prepared) -> PeftModel:
    recipe = prepared.recipe
    return FastLanguageModel.get_peft_model(
        base,
        r=recipe.lora.r,
        lora_alpha=recipe.lora.alpha,
        lora_dropout=recipe.lora.dropout,
        use_rslora=recipe.lora.use_rslora,
        target_modules=_target_modules(base, prepared.plan.target_modules),
        use_gradient_checkpointing=_checkpointing(prepared),
        random_state=recipe.seed,
    )


def _is_loaded_alone(folder: Path) -> bool:
    """Whether Transformers loads a wrapped language model without its towers (Qwen 3.5) or with them (Gemma 4).

    Unsloth is asked to do the same: the names in the adapter must be those of the model that plain PEFT puts it on.
    """
    config = AutoConfig.from_pretrained(folder)
    if not hasattr(config, "text_config"):
        return False
    return str(AutoModelForCausalLM._model_mapping[type(config)].__name__).endswith("ForCausalLM")


def _target_modules(base: PreTrainedModel, names: tuple[str, ...]) -> list[str] | str:
    """The names; or, where a tower has modules of the same names, one pattern that leaves towers out."""
    inside = (name for name, _ in base.named_modules() if re.search(TOWERS, name))
    if not any(_ends_with(name, target) for name in inside for target in names):
        return list(names)
    return rf"(?!.*(?:{TOWERS})).*\.(?:{'|'.join(names)})"


def _checkpointing(prepared: Prepared) -> str | bool:
    """Unsloth's own way of recomputing activations, or none."""
    return "unsloth" if prepared.plan.gradient_checkpointing else False


def _adapted_modules(model: PeftModel) -> dict[str, torch.nn.Module]:
    """The base layer under every adapter, by the name of the module."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {name: layer.get_base_layer() for name, layer in layers.items()}


def _check_targets(adapted: dict[str, torch.nn.Module], prepared: Prepared) -> None:
    """Compare what was matched with the plan: a module list that matches nothing trains nothing, in silence."""
    plan = prepared.plan
    matched = Counter(name.rsplit(".", 1)[-1] for name in adapted)
    missing = [name for name in plan.target_modules if not any(_ends_with(module, name) for module in adapted)]
    if missing or len(adapted) != plan.target_module_count:
        raise StageFailure(
            FailureClass.INTERNAL,
            f"the plan puts adapters on {plan.target_module_count} modules, but {len(adapted)} were matched "
            f"({dict(matched)}); not matched at all: {', '.join(missing) or 'none'}",
            hint="Name the linear layers of this architecture in lora.target_modules.",
        )
    plain = [name for name, module in adapted.items() if not isinstance(module, Linear4bit)]
    # A model that is stored in 4 bits may keep some layers in 16; the plan has read which.
    if prepared.recipe.load_in_4bit and len(plain) != plan.unquantised_module_count:
        raise StageFailure(
            FailureClass.INTERNAL,
            f"{len(plain)} of {len(adapted)} layers to train on were not quantised to 4 bit, the plan has "
            f"{plan.unquantised_module_count}; the first is {plain[0] if plain else 'none'}",
            hint="load_in_4bit: false trains this model in 16 bit.",
        )


def _ends_with(module: str, name: str) -> bool:
    return module == name or module.endswith(f".{name}")


def _describe_linear(adapted: dict[str, torch.nn.Module]) -> dict[str, Any]:
    """How the layers under the adapters are stored, for the report and for loading the same base again."""
    layer = next(iter(adapted.values()))
    weight = layer.weight
    return {
        "class": type(layer).__name__,
        "quant_type": getattr(weight, "quant_type", None),
        "compress_statistics": getattr(weight, "compress_statistics", None),
        "dtype": str(getattr(layer, "compute_dtype", None) or weight.dtype).removeprefix("torch."),
        "count": len(adapted),
    }


@contextmanager
def adapter_precision_kept(model: PeftModel) -> Iterator[None]:
    """Undo a cast of the adapter to bf16: near the end of a schedule its updates are too small for 8 bits of mantissa.

    TRL's trainer casts in its constructor; Unsloth takes that out on a GPU but not on a CPU.
    """
    before = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
    yield
    cast = {name: p for name, p in model.named_parameters() if name in before and p.dtype != before[name].dtype}
    for name, parameter in cast.items():
        parameter.data = before[name]
    if cast:
        _leave_inputs_to_autocast(model)


def _leave_inputs_to_autocast(model: PeftModel) -> None:
    """PEFT would lift every input to the adapter's 32 bits, only for autocast to take it down again: 3 % of a step."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = False


def adapter_weights(model: PeftModel) -> bytes:
    """The content of `adapter_model.safetensors`."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content: bytes = safetensors.torch.save(tensors, metadata={"format": "pt"})
    return content


def adapter_config(model: PeftModel, base_model: str) -> bytes:
    """The content of `adapter_config.json`. It names the base model as the world knows it, never a path of ours."""
    config = model.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": base_model, "inference_mode": True}
    return json.dumps(config, indent=2, sort_keys=True, default=sorted).encode()


def tensors_are_finite(model: PeftModel) -> bool:
    """Whether every trained weight is a number."""
    return all(bool(torch.isfinite(p).all()) for p in model.parameters() if p.requires_grad)


def torch_bytes(value: object) -> bytes:
    """What `torch.save` would write. In memory, so that a full disk is an OSError and not one of torch's own."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}
