"""Chat templates of strangers: rendered as transformers renders them, and stopped where they have no end."""

import json
import time
from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from morality_lens.dialogues import templates
from morality_lens.dialogues.rendering import PLAIN_TEMPLATE
from morality_lens.dialogues.templates import TemplateLimitError, render_template
from morality_lens.models.finding import BUNDLED, find_model

TOKENIZERS = Path(__file__).parents[2] / "models" / "tokenizers"
FOLDERS = [Path(find_model(name)) for name in BUNDLED] + [
    folder for folder in sorted(TOKENIZERS.glob("*")) if (folder / "tokenizer_config.json").is_file()
]
DIALOGUES = [
    [{"role": "user", "content": "Who was kind?"}],
    [
        {"role": "user", "content": "Who was kind?\n\nA) I  "},
        {"role": "assistant", "content": " B", "thinking": "Hm. {{ x }}"},
        {"role": "user", "content": "Are you sure? <|im_end|>"},
    ],
    [
        {"role": "system", "content": "Be fair."},
        {"role": "user", "content": "é" * 5000},
        {"role": "assistant", "content": "<think>\nso\n</think>\n\nC"},
    ],
]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_template_is_rendered_as_transformers_renders_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template = tokenizer.chat_template or PLAIN_TEMPLATE
    for dialogue in DIALOGUES:
        for prompt in (True, False):
            for keywords in ({}, {"enable_thinking": False}):
                try:
                    wanted = tokenizer.apply_chat_template(
                        dialogue,
                        chat_template=template,
                        tokenize=False,
                        add_generation_prompt=prompt,
                        **keywords,
                    )
                except TemplateError as error:
                    wanted = str(error)
                try:
                    got = render_template(
                        template,
                        dialogue,
                        {**tokenizer.special_tokens_map, **keywords},
                        prompt=prompt,
                    )
                except TemplateError as error:
                    got = str(error)
                assert got == wanted


START = "{% set n = namespace(x='a') %}{% for i in range(60) %}{% set n.x = "
"""A text that is doubled in every round."""


def rendered(source: str) -> str:
    return render_template(
        source, [{"role": "user", "content": "x" * 1000}], {"bos_token": "<s>"}, prompt=True
    )


@pytest.mark.parametrize(
    "source",
    [
        "{{ 'a' * 10**10 }}",
        "{{ 10**10 * 'a' }}",
        "{{ [1] * 10**10 }}",
        "{{ 9 ** (9 ** 9) }}",
        START + "n.x + n.x %}{% endfor %}{{ n.x }}",
        START + "n.x ~ n.x %}{% endfor %}{{ n.x }}",
        START + "[n.x, n.x] %}{% endfor %}{{ n.x }}",
        START + "[n.x, n.x] %}{% endfor %}{{ n.x | string | length }}",
        START + "n.x | replace('a', 'aa') %}{% endfor %}",
        START + "'%s%s' % (n.x, n.x) %}{% endfor %}",
        START + "'{0}{0}'.format(n.x) %}{% endfor %}",
        "{% set n = namespace(x=7) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a'.ljust(10**10) }}",
        "{{ '7'.zfill(10**10) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '%*d' % (10**10, 1) }}",
        "{{ '{:10000000000}'.format(1) }}",
        "{{ '{:{}}'.format(1, 10**10) }}",
        "{{ '%10000000000d' | format(1) }}",
        "{{ ('a\n' * 10**6) | indent(10**5) }}",
        "{{ (['a'] * 10**6) | join('b' * 10**6) }}",
        "{{ ('b' * 10**6).join(['a'] * 10**6) }}",
        "{{ 'a'.replace('', 'b' * 10**6).replace('b', 'c' * 10**6) }}",
        "{{ [1] | tojson(indent=10**10) }}",
        "{{ [1] | batch(10**10, 0) | list }}",
        "{% for a in range(9999) %}{% for b in range(99) %}{{ messages[0].content }}{% endfor %}{% endfor %}",
        "{% macro m() %}{% for b in range(99999) %}{{ 'abcdefghij' * 99 }}{% endfor %}{% endmacro %}"
        "{% for a in range(9999) %}{% set x = m() %}{% endfor %}",
        "{% for m in range(99999) %}{{ messages[0].content }}{% endfor %}",
        "{% set x %}{% for m in range(99999) %}{{ messages[0].content }}{% endfor %}{% endset %}",
    ],
)
def test_a_gigantic_text_is_stopped_before_it_is_made(source):
    began = time.monotonic()
    with pytest.raises(TemplateLimitError, match="it would write more than 20,000,000 characters"):
        rendered(source)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) if false %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{% set a = [f(n - 1), f(n - 1)] %}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for a in range(99999) %}{% set x = range(99999) | sum %}{% endfor %}",
        "{% set x = ([range(99999)] * 99999) | map('sum') | list %}",
        "{% for a in range(99999) if 'zz' in 'y' * 10**6 %}{% endfor %}",
    ],
)
def test_an_endless_template_is_stopped(source, monkeypatch):
    monkeypatch.setattr(templates, "MOST_SECONDS", 1.0)
    began = time.monotonic()
    with pytest.raises(TemplateLimitError, match="it did not end within"):
        rendered(source)
    assert time.monotonic() - began < 10


def test_a_long_dialogue_and_usual_filters_are_not_stopped():
    long = [{"role": "user", "content": "A) kind\n" * 100_000}]
    source = (
        "{% set n = namespace(text='') %}{% for m in messages %}{% set n.text = n.text ~ m.role + ': ' "
        "~ (m.content | trim | replace('kind', 'fair') | indent(2)) %}{% endfor %}{{ n.text }}"
        "{{ messages | map(attribute='role') | join(', ') }}{{ 'a' * 3 }}{{ [1, {'b': 'é'}] | tojson }}"
        "{{ '%s-%05.1f' % ('x', 2) }}{{ '{:>8}'.format('r') }}{% generation %} g{% endgeneration %}"
        "{{ dict(a=1).a }}{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    )
    text = render_template(source, long, {}, prompt=False)
    body = "A) fair\n  " * 99_999 + "A) fair"
    assert text == f"user: {body}user" + "aaa" + json.dumps(
        [1, {"b": "é"}], ensure_ascii=False
    ) + "x-002.0" + ("       r g101")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.mro() }}",
        "{{ namespace(__class__=1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ dict.mro() }}",
        "{{ lipsum(10**9) }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no') }}",
        "{% for",
    ],
)
def test_what_leads_out_of_the_sandbox_is_refused(source):
    with pytest.raises(TemplateError):
        rendered(source)
