"""What happened and what to do about it, in a sentence each, for every way a job can end without an adapter."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from appliance.errors import Reason
from appliance.job import FailureClass


class Remedy(NamedTuple):
    """A failure explained to a person who has never heard of its class."""

    happened: str
    to_do: str


_AGAIN: Final = (
    "Drop the files again. If it happens a second time, show `worker.log` to whoever looks after the appliance."
)

FAILURES: Final[Mapping[FailureClass, Remedy]] = {
    FailureClass.OUT_OF_MEMORY: Remedy(
        "The job needed more graphics memory than this machine has, even in the smallest portions it can be cut into.",
        "Choose a smaller base model, or set a smaller `max_seq_length` in the recipe, and drop the files again.",
    ),
    FailureClass.MEMORY_GUARD: Remedy(
        "The machine was running out of memory, so the job was stopped before everything else on it came to a halt.",
        "Close what else needs memory on this machine, or choose a smaller base model, and drop the files again.",
    ),
    FailureClass.NONFINITE_LOSS: Remedy(
        "The training went out of bounds: its loss was no longer a number, and nothing useful is learned after that.",
        "Set a lower `learning_rate` in the recipe, half of what it was, and drop the files again.",
    ),
    FailureClass.STALLED: Remedy("The job stopped making progress and was ended, as often as it may be tried.", _AGAIN),
    FailureClass.DISK_FULL: Remedy(
        "A disk of the appliance was full.",
        "Make room: old results in the outbox may be moved away or deleted. Then drop the files again.",
    ),
    FailureClass.MODEL_UNAVAILABLE: Remedy(
        "The base model could not be fetched.",
        "Look at the spelling of `base_model` in the recipe. A model that asks for consent must be agreed to on the"
        " Hugging Face Hub, and the appliance needs a token that may read it. Then drop the files again.",
    ),
    FailureClass.BROKEN_ADAPTER: Remedy(
        "The adapter was trained, but did not pass the test it gets after being loaded again from its files.",
        f"Do not use it. {_AGAIN}",
    ),
    FailureClass.WORKER_CRASHED: Remedy("The program that did the work ended unexpectedly.", _AGAIN),
    FailureClass.HOST_CRASHED: Remedy(
        "The machine went down while the job was running, as often as a job may be tried.",
        "Ask whoever looks after the machine why it went down. Then drop the files again.",
    ),
    FailureClass.INTERNAL: Remedy("The appliance made a mistake. There is nothing wrong with your files.", _AGAIN),
}

REJECTIONS: Final[Mapping[Reason, str]] = {
    Reason.RECIPE_SYNTAX: "Correct the recipe: it cannot be read as YAML.",
    Reason.RECIPE_SCHEMA: "Correct the recipe: it has keys or values that cannot be used.",
    Reason.DATASET_MISSING: "Drop the dataset that the recipe names together with the recipe.",
    Reason.DATASET_FORMAT: "Correct the rows named below, or save the dataset in a form the appliance reads.",
    Reason.DATASET_EMPTY: "Drop a dataset with rows in it.",
    Reason.ENCODING: "Save the file as UTF-8.",
    Reason.TOO_LARGE: "Drop a smaller file, or ask whoever looks after the appliance to raise the limit.",
    Reason.TRUNCATED: "Copy the file again, and wait until the copy has finished.",
    Reason.UNSAFE_FILE: "Copy the file itself, not a link to it.",
    Reason.MODEL_NOT_ALLOWED: "Choose a base model that this appliance allows, or ask whoever looks after it.",
    Reason.LABELS: "Correct the dataset or the recipe: as it is, the model would learn the wrong thing or nothing.",
    Reason.WOULD_NOT_FIT: "Choose a smaller base model or a smaller `max_seq_length`.",
    Reason.DISK_FULL: "Make room on the disk: old results in the outbox may be moved away or deleted.",
    Reason.OTHER: "Do what is said below.",
}

# A file that is wrong as a whole: no rows of it are named.
OTHER_FORM: Final = "Save the dataset in a form the appliance reads; what is wrong with this one is said below."
# Files that hold no rows, whatever stands in them.
NOT_DATA: Final = "Drop the data itself: `.jsonl`, `.json`, `.csv` or `.parquet`. Unpack archives first."
NO_BUTTON: Final = (
    "If this was meant to be a button: there are `0007.cancel`, `0007.retry` and `0007.approve`, with the number of the"
    " job, and `queue.pause` and `queue.resume`. Name an empty file so and drop it. Otherwise drop the data itself,"
    " unpacked."
)
