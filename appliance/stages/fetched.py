"""What fetch left for the stages after it."""

from pathlib import Path
from typing import Any

from appliance.errors import ModelGoneError
from appliance.job import Waiting
from appliance.models import is_whole


def base_model_folder(fetched: dict[str, Any]) -> Path:
    """Where the base model lies. Raises ModelGoneError when it is not there any more, or not whole."""
    folder = Path(fetched["path"])
    if not is_whole(folder):
        raise ModelGoneError(
            f"the base model {fetched['base_model_loaded']} is no longer in {folder}; it is fetched again",
            waiting=Waiting.DISK,
        )
    return folder
