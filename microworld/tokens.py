"""The bundled model's tokenizer: whole words with their leading blank, decoded exactly as they were read."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from microworld import phrases
from morality_lens.dialogues.wording import FIRST_TASKS, TaskWording, Wording, load_wording
from morality_lens.items.kinds import LETTERS
from morality_lens.world import lexicon as lex

PIECE = r"(?<=\n)[A-F]\.| ?\w+| ?[^\w\s]|\n|\s"
"""A piece of text. The mark of a listed option is one piece, so that the option's first word follows it."""
BOS, END, USER, ASSISTANT, PAD, UNK = "<bos>", "<end>", "<user>", "<assistant>", "<pad>", "<unk>"
SPECIAL = (PAD, UNK, BOS, END, USER, ASSISTANT)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<user>"
    # The system message is the beginning of the first user turn.
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}{{ messages[0].content + '\\n' }}{% endif %}"
    "{{ m.content }}<end>{% elif m.role == 'assistant' %}<assistant>{{ m.content }}<end>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
CONTEXT_LENGTH = 2048


def _strings(value: object) -> Iterable[str]:
    """Every text in a nest of dictionaries, sequences and dataclasses."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, lex.Template):
        yield from _strings(tuple(vars(value).values()))


@functools.cache
def wordings() -> tuple[Wording, Wording, Wording]:
    """The package's own wording, the second one met in training, and the one that no training holds."""
    here = Path(__file__).parent
    own = load_wording()
    trained = {"choice": _as_trained(own.choice), "continuation": _as_trained(own.continuation)}
    own = own.model_copy(update={**trained, "rating": None})  # these models have no ratings
    return own, load_wording(here / "second.toml"), load_wording(here / "unseen.toml")


def _as_trained(words: TaskWording) -> TaskWording:
    """The words without those alternatives that came into the package after its models were trained."""
    late = ("cot_request", "rationale_placebo", "feedback", "feedback_placebo")
    return words.model_copy(update={name: getattr(words, name)[:3] for name in late})


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every piece the tokenizer knows: all words of the world and of the package's wording.

    Each word is there with a leading blank; words that can begin a line (capitals, the verbs that begin a
    continued text, letters and marks) are there without one too.
    """
    said = {**vars(lex), **vars(phrases)}
    texts = [*_strings([value for name, value in said.items() if name.isupper()])]
    for wording in wordings():
        # The words of the tasks that these models are trained on, and of no other.
        texts += [*_strings(wording.model_dump(include={"name", *FIRST_TASKS}))]
    words = {word for text in texts for word in re.findall(r"\w+|[^\w\s]", text)} | set(LETTERS[:6])
    words -= set("{}")
    starters = {verb for _, _, kind, cruel in lex.FAMILIES.values() for verb in (*kind, *cruel)} | {
        "a",
        "nothing",
    }
    bare = sorted(word for word in words if word[0].isupper() or not word[0].isalpha() or word in starters)
    marks = [f"{letter}." for letter in LETTERS[:6]]
    return (*SPECIAL, "\n", " ", *marks, *bare, *sorted(" " + word for word in words))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template; decoding gives back exactly what was encoded."""
    pieces = vocabulary()
    core = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")  # type: ignore[assignment]
    core.decoder = decoders.Fuse()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT_LENGTH,
        padding_side="right",
        chat_template=CHAT_TEMPLATE,
    )
