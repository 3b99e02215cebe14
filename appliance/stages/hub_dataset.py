"""A dataset of the Hub: which of its files holds the rows, and where that is put. Runs in the download's process."""

from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from huggingface_hub import HfApi, hf_hub_download

from appliance.errors import ApplianceError
from appliance.names import DATA_SUFFIXES, split_suffix

ANSWER_SECONDS: Final = 60.0
NAMED: Final = 5
# Beside the rows, in the words the Hub's own tools write.
NOT_ROWS: Final = frozenset({"dataset_infos.json", "dataset_dict.json", "state.json", "dataset_info.json"})
OTHER_SPLITS: Final = ("test", "validation", "valid", "dev", "eval")


class UnusableDataset(ApplianceError):
    """The repository holds no file that the appliance could take the rows from; the hint says what would work."""


def choose_data_file(names: list[str]) -> str:
    """The one file of a dataset repository that holds the rows to train on. Raises UnusableDataset."""
    data = [name for name in names if _is_data(name)]
    chosen = [name for name in data if "train" in name.lower()] or [name for name in data if not _other_split(name)]
    if len(chosen) == 1:
        return chosen[0]
    if not data:
        raise UnusableDataset(
            f"it has no file of rows; these kinds are read: {', '.join(DATA_SUFFIXES)}",
            hint="Choose a dataset with one such file, or download it yourself and drop the file.",
        )
    shown = chosen or data
    more = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    raise UnusableDataset(
        f"it is not clear which file holds the rows: {', '.join(sorted(shown)[:NAMED])}{more}",
        hint="Choose a dataset with one file of rows, or download the one you want and drop it.",
    )


def download_dataset(
    repository: str, folder: Path, *, token: str | bool, most_bytes: float, tell: Callable[[int], object]
) -> Mapping[str, Any]:
    """Put the rows of a dataset into `folder`, and `tell` how many bytes that will be.

    Returns the file's path, and the commit that it is of.
    """
    info = HfApi(token=token).dataset_info(repository, files_metadata=True, timeout=ANSWER_SECONDS)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    name = choose_data_file(list(sizes))
    if sizes[name] > most_bytes:
        message = f"{name} has {sizes[name] / 1e9:,.1f} GB and the limit is {most_bytes / 1e9:,.0f} GB"
        raise UnusableDataset(message, hint="Choose a smaller dataset, or ask for a higher APPLIANCE_MAX_DROP_GB.")
    tell(sizes[name])
    path = hf_hub_download(repository, name, repo_type="dataset", revision=info.sha, token=token, local_dir=folder)
    return {"path": str(path), "commit": info.sha, "name": PurePosixPath(name).name}


def _is_data(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") for part in path.parts)
    return split_suffix(path.name)[1] in DATA_SUFFIXES and path.name not in NOT_ROWS and not hidden


def _other_split(name: str) -> bool:
    return any(split in name.lower() for split in OTHER_SPLITS)
