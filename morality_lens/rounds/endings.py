"""Where an answer ends although the model writes on: at the first line break after it has chosen."""

from collections.abc import Sequence

from morality_lens.dialogues.rendering import Renderer
from morality_lens.items.kinds import Item
from morality_lens.models.decoding import Ends


def line_ends(renderer: Renderer, items: Sequence[Item | None]) -> Ends:
    """The rule for answers to these items, one a row.

    A model that was asked for a letter often goes on with the other options, or explains itself, in the next
    line. What it chose stands in the line that ends; a line without a choice, or one that asks or announces
    what follows (with a question mark or a colon), does not end the answer. Open prompts, and rows without an
    item, have no such rule.
    """
    breaks: dict[int, bool] = {}

    def ends(row: int, tokens: Sequence[int]) -> bool:
        last, item = tokens[-1], items[row]
        if last not in breaks:
            breaks[last] = "\n" in renderer.tokenizer.decode([last])
        if not breaks[last] or item is None or not item.replies:
            return False
        text = renderer.tokenizer.decode(list(tokens))
        line = text[: text.rfind("\n")].strip().split("\n")[-1].strip()
        return bool(line) and not line.endswith((":", "?")) and item.read(line) is not None

    return ends
