"""`READ ME FIRST.txt` in the inbox: what to drop and where results appear. For people who know nothing of us. Pure."""

from collections.abc import Sequence
from typing import Final

_TEXT: Final = """\
This folder trains language models on your data.


WHAT TO DO

1. Copy one file with your examples into this folder. That is all.
   It may end in .jsonl, .json or .jsonl.gz, and has one example a line, like this:

   {{"messages": [{{"role": "user", "content": "Hello"}}, {{"role": "assistant", "content": "Good day!"}}]}}

   Or it is a table, saved as .csv (from a spreadsheet: Save as, CSV UTF-8) or .parquet,
   whose columns are called prompt and completion.

2. The file disappears from here within a minute: it was taken in.

3. Look into the folder outbox. STATUS.html there shows what is being worked on.
   The result is a folder like 0007-support, with report.html in it. Open that first.
   If something was wrong, the folder is called 0007-support.rejected or .failed,
   and WHY.html in it says what and where. Your file lies beside it. Nothing is lost.


IF YOU WANT MORE

- To choose the base model and the settings, drop a recipe with the same name beside
  the file: support.jsonl and support.yaml.
- Or drop the file into one of these folders, each a ready-made recipe:
{recipes}
- To choose the rows that the result is judged by, add a second file: support.eval.jsonl.
- To have a file checked without training, put it into a folder called check.
- A folder of yours with one file and one recipe in it works, too.


BUTTONS

An empty file with one of these names does something and disappears:

{buttons}
"""

BUTTONS: Final = (
    ("0007.cancel", "stops job 7 and gives its files back"),
    ("0007.retry", "runs job 7 again, as a new job, after it has ended without success"),
    ("0007.approve", "lets job 7 start, however long it takes"),
    ("queue.pause", "no new training starts"),
    ("queue.resume", "trainings start again"),
)


def read_me_first(recipes: Sequence[str]) -> str:
    """The text, with the names of the recipe folders, and line ends that Windows Notepad knows."""
    folders = "\n".join(f"     {recipe}" for recipe in recipes) or "     (none are set up)"
    width = max(len(name) for name, _ in BUTTONS)
    buttons = "\n".join(f"   {name:<{width}}   {what}" for name, what in BUTTONS)
    return _TEXT.format(recipes=folders, buttons=buttons).replace("\n", "\r\n")
