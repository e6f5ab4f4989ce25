"""Where an answer ends although the model writes on: at the first line break after it has chosen."""

from collections.abc import Sequence

from morality_lens.dialogues.rendering import Renderer
from morality_lens.items.kinds import Item
from morality_lens.models.decoding import Ends


def line_ends(renderer: Renderer, items: Sequence[Item]) -> Ends:
    """The rule for answers to these items, one a row.

    A model that was asked for a letter often goes on with the other options, or explains itself, in the next
    line. What it chose stands in the line that ends; a line without a choice does not end the answer. Open
    prompts have no such rule.
    """
    breaks: dict[int, bool] = {}

    def ends(row: int, tokens: Sequence[int]) -> bool:
        last = tokens[-1]
        if last not in breaks:
            breaks[last] = "\n" in renderer.tokenizer.decode([last])
        if not breaks[last] or not items[row].replies:
            return False
        line = renderer.tokenizer.decode(list(tokens)).strip().split("\n")[0].strip()
        return bool(line) and items[row].read(line) is not None

    return ends
