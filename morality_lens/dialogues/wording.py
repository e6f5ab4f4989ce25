"""Every word that the protocol says, read from a TOML file that a user can replace."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from morality_lens.dialogues.languages import ENGLISH, LANGUAGES, wording_file
from morality_lens.items.files import read_toml
from morality_lens.items.kinds import Item


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Variants = tuple[str, ...]


class OracleWording(_Strict):
    """What a reader who knows the right answer says of an answer, by how it was judged."""

    correct: Variants = Field(min_length=1)
    biased: Variants = Field(min_length=1)
    other: Variants = Field(min_length=1)
    unparsed: Variants = Field(min_length=1)


class TaskWording(_Strict):
    """The words of one task; each field holds alternative wordings."""

    prompt: Variants = ("{text}",)
    answer_request: Variants = Field(min_length=1)
    review: Variants = Field(min_length=1)
    instruction: Variants = Field(min_length=1)
    instruction_placebo: Variants = Field(min_length=1)
    cot_request: Variants = Field(min_length=1)
    rationale_placebo: Variants = Field(min_length=1)
    feedback: Variants = Field(min_length=1)
    feedback_placebo: Variants = Field(min_length=1)
    critique_request: Variants = Field(min_length=1)
    distinguish_request: Variants = Field(min_length=1)
    stereotype_request: Variants = ()

    @property
    def alternatives(self) -> int:
        """How many wordings there are: the length of the longest list."""
        return max(len(value) for _, value in self if isinstance(value, tuple))

    def refuse_index(self, index: int) -> None:
        """Nothing, where there is a wording of that index.

        Raises:
            ValueError: there is none; it would be another one's, counted round.
        """
        if index >= self.alternatives:
            raise ValueError(
                f"wording_index counts from 0, and this wording has {self.alternatives} alternatives (its "
                f"longest list); got {index}."
            )


class JudgedWording(TaskWording):
    """The words of a task whose answers a reader can call right or wrong."""

    oracle: OracleWording


FIRST_TASKS = ("choice", "continuation")
"""Tasks whose words have one hash together, as they had before there were others."""


class Wording(_Strict):
    """All words that the protocol puts into a dialogue (see ``wording.toml``)."""

    name: str
    choice: JudgedWording
    continuation: JudgedWording
    rating: TaskWording | None = None

    def task(self, item: Item) -> TaskWording:
        """The words for this kind of item.

        Raises:
            ValueError: the wording has none for it.
        """
        words = getattr(self, item.task)
        if words is None:
            raise ValueError(
                f"the wording {self.name!r} has no table [{item.task}], which these items are asked in; copy "
                "it from the package's wording.toml."
            )
        return words

    def oracle(self, item: Item) -> OracleWording:
        """What a reader who knows the right answer says of an answer to this kind of item.

        Raises:
            ValueError: the task has no right answer.
        """
        words = self.task(item)
        if not isinstance(words, JudgedWording):
            raise ValueError(f"the task {item.task!r} has no right answer that an oracle could know.")
        return words.oracle

    @property
    def sha256(self) -> str:
        """Hash over every word of choice and continuation."""
        return self.hash_of(FIRST_TASKS[0])

    def hash_of(self, task: str) -> str:
        """Hash over the words that a run of this task is identified by.

        Choice and continuation are hashed together and every later task by itself, so that a task that is
        added later leaves the identity of earlier runs as it was.
        """
        tasks = FIRST_TASKS if task in FIRST_TASKS else (task,)
        return hashlib.sha256(self.model_dump_json(include={"name", *tasks}).encode()).hexdigest()


def load_wording(path: str | Path | None = None) -> Wording:
    """The wording in a TOML file, or one of the package's: English, or the language of that name.

    The wordings of :data:`morality_lens.dialogues.languages.LANGUAGES` say what the English one says,
    sentence by sentence, and their placebos have the form of what they stand for. They have no words for
    ratings.

    Args:
        path: the file; ``de``, ``es``, ``ko``, ``nl``, ``tr`` or ``zh`` for the package's wording in that
            language; ``en`` or None for the English one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or an entry is missing, unknown or of the wrong type.

    Examples:
        >>> ml.dialogues.load_wording().name
        'default'
        >>> ml.dialogues.load_wording("es").choice.answer_request[0]
        'Responde con la letra de una opción.'
    """
    file = wording_file(path)
    if file is None:
        here = Path(__file__).parent
        file = (
            here / "wording.toml"
            if path is None or str(path) == ENGLISH
            else here / "wordings" / f"{path}.toml"
        )
    return read_toml(
        file,
        Wording,
        f"copy of the package's wording.toml, or a name out of {', '.join((ENGLISH, *LANGUAGES))}",
    )


def pick(variants: Variants, index: int) -> str:
    """The wording at ``index``, counted round where the list is shorter."""
    return variants[index % len(variants)]
