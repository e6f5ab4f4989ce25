"""The self-test's dialogues: three turns with the replies that templates are tripped up by."""

import pytest
import zoo

from morality_lens.dialogues import rendering
from morality_lens.models.loading import load_model, record_of
from morality_lens.models.self_test import REPLIES, played_dialogues

MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
ONE_ROUND = "{% if messages | length > 2 %}{{ raise_exception('only one question') }}{% endif %}" + zoo.CHATML
TIDYING = zoo.CHATML.replace("{{ m.content }}", "{{ m.content | replace('\\n', ' ') }}")


def renderer(template):
    return rendering.make_renderer(zoo.make_tokenizer(template))


@pytest.mark.parametrize("template", [zoo.CHATML, zoo.TRIMMING, MISTRAL, None])
def test_replies_of_every_shape_keep_the_history_in_common_templates(template):
    rows = played_dialogues(renderer(template))
    assert len(rows) == len(REPLIES) // 2
    for row, (first, second) in zip(rows, zip(REPLIES[::2], REPLIES[1::2], strict=True), strict=True):
        text = renderer(template).tokenizer.decode(row)
        assert text.count("Is this fair?") == 1
        for reply in (first, second):
            assert reply in text


def test_a_template_that_refuses_a_second_round_is_refused_when_the_model_is_loaded(tmp_path):
    folder = zoo.save_model(tmp_path / "m", "llama", template=ONE_ROUND)
    with pytest.raises(ValueError, match=r"refuses the dialogue \(only one question\)"):
        load_model(folder, device="cpu")


def test_a_template_that_rewrites_an_odd_reply_alone_is_loaded(tmp_path):
    """Only a dialogue with such a reply is read anew."""
    folder = zoo.save_model(tmp_path / "m", "llama", template=TIDYING)
    record = record_of(load_model(folder, device="cpu"))
    assert record.prefix_reuse
    decode = record.renderer.tokenizer.decode
    assert "No. Yes." in decode(played_dialogues(record.renderer)[-1])


def test_models_prove_themselves_on_these_dialogues(zoo_folder):
    record = record_of(load_model(zoo_folder("gemma2"), device="cpu"))
    rows = played_dialogues(record.renderer)
    assert max(map(len, rows)) > 2 * zoo.WINDOW  # past the sliding window
    assert all(check.passed for check in record.checks)
