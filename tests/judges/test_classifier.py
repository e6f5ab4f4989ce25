"""Any sequence classifier as a judge, on tiny random ones made here."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from morality_lens.judges.classifier import load_toxicity_classifier

TEXTS = ["you are kind", "cruel", "the potter and the weaver are mean to you every day", "fair again", "kind"]
WORDS = sorted(set(" ".join(TEXTS).split()))


def tokenizer(limit, pad=True):
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]" if pad else None,
        model_max_length=limit,
        padding_side="left",
    )


SIZES = {
    "vocab_size": 4 + len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "initializer_range": 0.5,
    "pad_token_id": 0,
}


def saved(folder, labels, *, kind="bert", problem_type=None, positions=16, limit=16, pad=True):
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: k for k, label in enumerate(labels)}}
    names["problem_type"] = problem_type
    if kind == "bert":
        config = BertConfig(**SIZES, **names, max_position_embeddings=positions)
        model = BertForSequenceClassification(config)
    elif kind == "roberta":
        config = RobertaConfig(**SIZES, **names, max_position_embeddings=positions, type_vocab_size=1)
        model = RobertaForSequenceClassification(config)
    else:
        config = GPT2Config(
            vocab_size=SIZES["vocab_size"],
            n_embd=16,
            n_layer=2,
            n_head=2,
            n_positions=positions,
            initializer_range=0.5,
            bos_token_id=2,
            eos_token_id=3,
            **names,
        )
        model = GPT2ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer(limit, pad).save_pretrained(folder)
    return model.eval()


def logits(model, text):
    with torch.no_grad():
        return model(**tokenizer(10**6)(text, return_tensors="pt")).logits[0].double().numpy()


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2"])
def test_batched_scores_equal_single_ones_in_their_order(tmp_path, kind):
    model = saved(tmp_path, ["neutral", "toxic"], kind=kind, limit=14, positions=20)
    judge = load_toxicity_classifier(tmp_path, batch_size=3)
    alone = np.concatenate([judge.score([text]) for text in TEXTS])
    by_hand = [np.exp(z[1]) / np.exp(z).sum() for z in (logits(model, text) for text in TEXTS)]
    np.testing.assert_allclose(alone, by_hand, rtol=1e-5)
    np.testing.assert_allclose(judge.score(TEXTS), alone, rtol=1e-5)
    np.testing.assert_allclose(judge.score(TEXTS[::-1]), alone[::-1], rtol=1e-5)
    assert np.ptp(alone) > 0.05


def test_a_decoder_without_a_padding_token_is_read_one_text_at_a_time(tmp_path):
    model = saved(tmp_path, ["neutral", "toxic"], kind="gpt2", pad=False)
    by_hand = [np.exp(z[1]) / np.exp(z).sum() for z in (logits(model, text) for text in TEXTS)]
    np.testing.assert_allclose(load_toxicity_classifier(tmp_path).score(TEXTS), by_hand, rtol=1e-5)


def test_a_single_logit_and_several_labels_at_once_go_through_a_sigmoid(tmp_path):
    model = saved(tmp_path / "one", ["LABEL_0"])
    np.testing.assert_allclose(
        load_toxicity_classifier(tmp_path / "one").score(TEXTS[:1]),
        1 / (1 + np.exp(-logits(model, TEXTS[0]))),
        rtol=1e-5,
    )
    labels = ["obscene", "toxic", "severe_toxic"]
    model = saved(tmp_path / "many", labels, problem_type="multi_label_classification")
    judge = load_toxicity_classifier(tmp_path / "many")
    z = logits(model, TEXTS[0])
    assert (judge.label, judge.activation) == ("toxic", "sigmoid")
    np.testing.assert_allclose(judge.score(TEXTS[:1]), 1 / (1 + np.exp(-z[1])), rtol=1e-5)
    severe = load_toxicity_classifier(tmp_path / "many", positive_label="severe_toxic", activation="softmax")
    np.testing.assert_allclose(severe.score(TEXTS[:1]), np.exp(z[2]) / np.exp(z).sum(), rtol=1e-5)


def test_the_toxic_label_is_found_and_its_negation_is_not_taken_for_it(tmp_path):
    saved(tmp_path / "a", ["toxic", "non-toxic"])
    assert load_toxicity_classifier(tmp_path / "a").column == 0
    saved(tmp_path / "b", ["not_toxic", "Toxicity"])
    assert load_toxicity_classifier(tmp_path / "b").column == 1
    saved(tmp_path / "c", ["nontoxic", "toxic_comment"])
    assert load_toxicity_classifier(tmp_path / "c").column == 1


def test_an_unclear_label_or_activation_is_asked_for(tmp_path):
    saved(tmp_path / "a", ["LABEL_0", "LABEL_1"])
    with pytest.raises(ValueError, match=r"which label .* \['LABEL_0', 'LABEL_1'\].*positive_label"):
        load_toxicity_classifier(tmp_path / "a")
    assert load_toxicity_classifier(tmp_path / "a", positive_label="label_1").column == 1
    with pytest.raises(ValueError, match="got 'rude'"):
        load_toxicity_classifier(tmp_path / "a", positive_label="rude")
    saved(tmp_path / "b", ["toxic", "obscene", "threat"])
    with pytest.raises(ValueError, match="pass activation='sigmoid'"):
        load_toxicity_classifier(tmp_path / "b")
    saved(tmp_path / "c", ["toxic"])
    with pytest.raises(ValueError, match="always 1"):
        load_toxicity_classifier(tmp_path / "c", activation="softmax")
    saved(tmp_path / "d", ["toxic"], problem_type="regression")
    with pytest.raises(ValueError, match="problem_type='regression'"):
        load_toxicity_classifier(tmp_path / "d")


def test_missing_texts_and_failed_scores_are_missing_not_zero(tmp_path):
    saved(tmp_path, ["neutral", "toxic"])
    judge = load_toxicity_classifier(tmp_path, batch_size=2)
    scores = judge.score([None, TEXTS[0], "", "  \n", TEXTS[1]])
    assert np.isnan(scores).tolist() == [True, False, True, True, False]
    np.testing.assert_allclose(scores[[1, 4]], judge.score(TEXTS[:2]), rtol=1e-5)
    assert np.isnan(judge.score([None, ""])).all()
    assert len(judge.score([])) == 0
    with torch.no_grad():
        judge.model.classifier.bias.fill_(float("nan"))
    assert np.isnan(judge.score(TEXTS)).all()


def test_long_texts_are_cut_and_counted(tmp_path):
    saved(tmp_path, ["neutral", "toxic"], limit=6)
    judge = load_toxicity_classifier(tmp_path)
    assert judge.max_length == 6
    assert judge.n_truncated([*TEXTS, None]) == 1
    assert judge.n_truncated([None]) == 0
    with pytest.warns(UserWarning, match="1 of 5 texts are longer than 6 tokens"):
        scores = judge.score(TEXTS)
    with pytest.warns(UserWarning, match="their beginning was judged"):
        longer = judge.score([TEXTS[2] + " again"])
    np.testing.assert_allclose(scores[2], longer[0], rtol=1e-5)
    with pytest.raises(ValueError, match="at most 6 tokens"):
        load_toxicity_classifier(tmp_path, max_length=7)


def test_a_model_that_keeps_positions_for_padding_reads_that_many_fewer_tokens(tmp_path):
    saved(tmp_path, ["neutral", "toxic"], kind="roberta", positions=9, limit=int(1e30))
    judge = load_toxicity_classifier(tmp_path)
    assert judge.max_length == 8
    with pytest.warns(UserWarning, match="their beginning was judged"):
        assert np.isfinite(judge.score(TEXTS)).all()


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    tokenizer(16).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no trained sequence classifier.*classifier\.weight"):
        load_toxicity_classifier(tmp_path)
