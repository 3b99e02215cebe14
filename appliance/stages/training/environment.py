"""The environment that torch, transformers and Unsloth must find when they are imported. Imports none of them."""

import os
from pathlib import Path

from appliance.settings import Settings

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_TOKEN", "WANDB_API_KEY")
PTXAS = Path("/usr/local/cuda/bin/ptxas")


def prepare_environment(settings: Settings) -> None:
    """Offline, without statistics or tokens, and with every cache below the state directory.

    Call it before anything imports torch: the libraries read these variables once.
    """
    for name in TOKENS:
        os.environ.pop(name, None)
    os.environ.update(
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "UNSLOTH_DISABLE_STATISTICS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
    for name, value in _caches(settings.state.resolve() / "cache").items():
        os.environ.setdefault(name, value)
    # One allocation that grows instead of many that leave holes; unsloth_zoo sets the same when it is imported.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    # Waiting threads sleep instead of spinning: beside another busy process, spinning made training 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if PTXAS.exists():
        os.environ.setdefault("TRITON_PTXAS_PATH", str(PTXAS))


def _caches(cache: Path) -> dict[str, str]:
    return {
        "HF_HOME": str(cache / "huggingface"),
        "UNSLOTH_COMPILE_LOCATION": str(cache / "unsloth"),
        "UNSLOTH_MEGA_CACHE_DIR": str(cache / "unsloth-compiled"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
