"""``python docs/data_sets.py``: writes the page of published data sets from what is known of them."""

from pathlib import Path

from morality_lens.items.published.catalogue import describe_data_sets

PAGE = Path(__file__).parent / "reference" / "datasets.md"
HEAD = """# Published data sets by name

```python
items = ml.load_data("mbbq", "MBBQ", language="es")  # the folder, as it was published
items = ml.load_data("discrim-eval", "Anthropic/discrim-eval:explicit")  # a name on the hub
probe = ml.fit_probe(model, ml.load_data("ethics", "ethics", subset="justice"))
ml.items.data_sets()  # the table below
```
`morality-lens run --dataset mbbq --data MBBQ --language es` plays one; `--subset` names a subset. None of
them comes with the package, and none is fetched unless a name on the hub is given, which needs the extra
`datasets`. The first subset of each is the one that is read where none is named.

What a data set becomes decides what can be measured: questions with a right option have its share and
probability, those without have those of each option, ratings their expected value, open prompts the score
of a judge; a direction is fitted on statements.

The last line of each entry says what the columns were compared with. Where that is a description alone, the
files may differ from it: a row that does is refused with its file and line, and nothing is guessed.

## The data sets

"""

if __name__ == "__main__":
    PAGE.write_text(HEAD + describe_data_sets(), encoding="utf-8")
