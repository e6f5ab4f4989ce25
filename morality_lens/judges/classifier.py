"""Any Hugging Face sequence classifier as a judge of toxicity."""

import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from morality_lens.items.files import first_line
from morality_lens.judges.toxicity import scored
from morality_lens.progress import without_bars

Activation = Literal["sigmoid", "softmax"]


@dataclass(frozen=True, kw_only=True, eq=False)
class HFJudge:
    """A loaded classifier and how its logits become one score.

    Attributes:
        model: the sequence classifier, in evaluation mode.
        tokenizer: its tokenizer, padding on the right.
        label: name of the label whose probability is the score.
        column: that label's place among the logits.
        activation: ``softmax`` over exclusive labels, or ``sigmoid`` of a label of its own.
        batch_size: texts per forward pass.
        max_length: tokens that are read of a text; the rest is cut off.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    label: str
    column: int
    activation: Activation
    batch_size: int
    max_length: int

    def score(self, texts: Sequence[str | None]) -> Float[np.ndarray, " text"]:
        """Each text's probability of the label; NaN for None, blank texts and scores that are not finite.

        Of a text longer than ``max_length`` tokens the beginning is judged; a warning counts such texts.
        """
        return scored(texts, self._score_present)

    def n_truncated(self, texts: Sequence[str | None]) -> int:
        """How many of the texts are longer than what the classifier reads."""
        present = [text for text in texts if text is not None and text.strip()]
        return sum(length > self.max_length for length in self._lengths(present)) if present else 0

    def _lengths(self, texts: list[str]) -> list[int]:
        return [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]

    def _score_present(self, texts: list[str]) -> np.ndarray:
        lengths = self._lengths(texts)
        cut = sum(length > self.max_length for length in lengths)
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} texts are longer than {self.max_length} tokens: "
                "their beginning was judged.",
                stacklevel=4,
            )
        scores = np.empty(len(texts))
        # Texts of like length go together, so that little is padding; each score returns to its text's place.
        order = np.argsort(lengths, kind="stable")
        # Without a padding token a decoder cannot tell a text's end in a batch.
        step = self.batch_size if self.tokenizer.pad_token is not None else 1
        for start in range(0, len(order), step):
            batch = order[start : start + step]
            encoded = self.tokenizer(
                [texts[k] for k in batch],
                padding=step > 1,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self.model.device)
            with torch.inference_mode():
                logits = self.model(**encoded).logits.float()
            if self.activation == "sigmoid":
                probability = torch.sigmoid(logits[:, self.column])
            else:
                probability = torch.softmax(logits, dim=-1)[:, self.column]
            scores[batch] = probability.cpu().numpy()
        return scores


def load_toxicity_classifier(
    name_or_folder: str | Path,
    *,
    positive_label: str | None = None,
    activation: Activation | None = None,
    device: str = "cpu",
    batch_size: int = 32,
    max_length: int | None = None,
) -> HFJudge:
    """A judge made of a sequence classifier, for example ``s-nlp/roberta_toxicity_classifier``.

    Args:
        name_or_folder: hub name or local folder.
        positive_label: the label whose probability is the score; by default the only label, or the only one
            that is called toxic.
        activation: by default as the classifier's configuration says, else ``sigmoid`` for a single logit and
            ``softmax`` for two labels.
        device: where it runs.
        batch_size: texts per forward pass.
        max_length: tokens read of a text; by default as many as the classifier has positions.

    Raises:
        ValueError: weights of the head are missing, the label or the activation is not clear, or
            ``max_length`` is more than the classifier reads.

    Examples:
        >>> from transformers import LlamaConfig, LlamaForSequenceClassification
        >>> config = LlamaConfig(
        ...     vocab_size=len(model.tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=1, pad_token_id=0, id2label={0: "neutral", 1: "toxic"},
        ... )
        >>> LlamaForSequenceClassification(config).save_pretrained(folder / "classifier")
        >>> _ = model.tokenizer.save_pretrained(folder / "classifier")
        >>> judge = ml.judges.load_toxicity_classifier(folder / "classifier")
        >>> judge.label, judge.score(["A kind word.", "A cruel word."]).shape
        ('toxic', (2,))
    """
    tokenizer, model, loading = _read(name_or_folder)
    if loading["missing_keys"]:
        raise ValueError(
            f"{name_or_folder} is no trained sequence classifier: its weights lack "
            f"{sorted(loading['missing_keys'])}. Give a model that was trained to classify."
        )
    labels = {index: str(label) for index, label in sorted(model.config.id2label.items())}
    label, column = _positive(labels, positive_label, str(name_or_folder))
    activation = activation or _activation(model.config, str(name_or_folder))
    if activation == "softmax" and len(labels) == 1:
        raise ValueError(f"{name_or_folder} has one logit, and a softmax over it is always 1: use 'sigmoid'.")
    positions = _positions(model, tokenizer)
    if max_length is not None and max_length > positions:
        raise ValueError(f"{name_or_folder} reads at most {positions} tokens; got max_length={max_length}.")
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "right"
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return HFJudge(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        label=label,
        column=column,
        activation=activation,
        batch_size=batch_size,
        max_length=positions if max_length is None else max_length,
    )


def _read(name: str | Path) -> tuple[PreTrainedTokenizerBase, Any, dict[str, Any]]:
    """The tokenizer, the classifier, and what its file lacked; no code that comes with it is run.

    Raises:
        ValueError: it cannot be loaded, or needs code of its own.
    """
    try:
        with without_bars() if Path(name).exists() else nullcontext():
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                name, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
            )
    except (ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises is of any type
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{name} needs Python code of its own, and no code that comes with a classifier is run; take "
                "one whose architecture is part of transformers."
            ) from error
        raise ValueError(f"{name} cannot be loaded as a sequence classifier: {first_line(error)}") from error
    return tokenizer, model, loading


def _positive(labels: dict[int, str], wanted: str | None, name: str) -> tuple[str, int]:
    if wanted is not None:
        found = [k for k, label in labels.items() if label.casefold() == wanted.casefold()]
    elif len(labels) == 1 and not _negated(labels[0]):
        found = list(labels)
    else:
        found = [k for k, label in labels.items() if label.casefold() in ("toxic", "toxicity")]
        if not found:
            found = [k for k, label in labels.items() if "toxic" in label.casefold() and not _negated(label)]
    if len(found) != 1:
        raise ValueError(
            f"which label of {name} means toxic? It has {list(labels.values())}; "
            f"pass one of them as positive_label (got {wanted!r})."
        )
    return labels[found[0]], found[0]


def _negated(label: str) -> bool:
    return label.casefold().replace("_", "-").startswith(("non", "not-", "not ", "no-", "un"))


def _activation(config: Any, name: str) -> Activation:
    stated: dict[str | None, Activation] = {
        "multi_label_classification": "sigmoid",
        "single_label_classification": "softmax",
    }
    found = stated.get(config.problem_type)
    if config.num_labels == 1 and config.problem_type != "regression":
        found = "sigmoid"
    elif config.num_labels == 2 and config.problem_type is None:
        found = "softmax"
    if found is None:
        raise ValueError(
            f"{name} has {config.num_labels} labels and problem_type={config.problem_type!r}: pass "
            "activation='sigmoid' if a text can have several labels, 'softmax' if it has exactly one."
        )
    return found


def _positions(model: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens both tokenizer and model take; RoBERTa's kind keeps some positions for padding."""
    positions = getattr(model.config, "max_position_embeddings", None)
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    reserved = getattr(embeddings, "padding_idx", None)
    limits = [min(tokenizer.model_max_length, 2**31)]  # transformers writes 1e30 for no limit
    if positions is not None:
        limits.append(positions - (0 if reserved is None else reserved + 1))
    return min(limits)
