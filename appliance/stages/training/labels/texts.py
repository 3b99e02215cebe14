"""Plain texts to examples: everything is trained, a long text is cut into pieces, and the last one ends."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from tokenizers import Encoding

from appliance.stages.training.labels.control_tokens import ControlTokens, NotNeutral
from appliance.stages.training.labels.examples import Example, Failure
from appliance.stages.training.labels.labelling import Draft
from appliance.stages.training.labels.rows import Row


@dataclass(frozen=True)
class TextLabeller:
    """Labels rows of text. Each piece has at most `cap` tokens and begins with BOS where the tokenizer uses one."""

    control: ControlTokens
    bos_id: int | None
    eos_id: int | None
    cap: int

    def draft(self, row: Row) -> Draft | Failure:
        text = row.fields["text"]
        spelled = self.control.count_in(row.content)
        if not spelled:
            return Draft(row, text)
        try:
            self.control.refuse_ambiguous(row.content)
            self.control.swapped_backend()
        except NotNeutral as error:
            return Failure(row.number, "control_tokens", str(error))
        # Nothing here is the template's: read by the swapped tokenizer, every spelling is plain text as it stands.
        return Draft(row, text, swapped=True, control_tokens=spelled)

    def examples(self, draft: Draft, encoding: Encoding) -> Iterator[Example | Failure]:
        ids = array("i", encoding.ids)
        if draft.swapped and not self.control.is_neutral("", ids):
            yield Failure(draft.row.number, "control_tokens", "its words became control tokens")
            return
        if self.eos_id is not None:
            ids.append(self.eos_id)
        spelled = draft.control_tokens
        for piece in pieces(ids, self.cap - (self.bos_id is not None)):
            whole = piece if self.bos_id is None else array("i", [self.bos_id]) + piece
            length = len(whole)
            yield Example(draft.row.number, draft.row.hash, whole, whole[:], length, length, control_tokens=spelled)
            spelled = 0


def pieces(ids: "array[int]", at_most: int) -> Iterator["array[int]"]:
    """The tokens in pieces of equal length, give or take one: a last piece of one token would train nothing."""
    count = max(1, -(-len(ids) // at_most))
    bounds = [number * len(ids) // count for number in range(count + 1)]
    return (ids[start:end] for start, end in pairwise(bounds))
