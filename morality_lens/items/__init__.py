"""What is asked about? Questions, open prompts and statements, and the files they come from.

- ``answer_words``: Words around the letter of an answer in German, Spanish, Korean, Dutch, Turkish and
  Chinese.
- ``bbq``: The Bias Benchmark for QA: its rows as questions, and which answer expresses the bias.
- ``bundled``: Where the files that come with the package lie, installed or in a checkout.
- ``choices``: Which option an answer chose, from its letter or its words; which digit of a scale it gave.
- ``data``: Items by the name of a published data set, or from a file of any known kind.
- ``files``: Files read with the place of every row, TOML checked against a model, and files replaced
  whole.
- ``kinds``: Questions, ratings, open prompts and labelled statements: what they hold, ask for and are
  stored as.
- ``loaders``: Loaders of questions, ratings, open prompts and statements: bundled, or from files of one kind.
- ``permuting``: The order of a question's options, permuted so that every place holds the right option
  equally often.
- ``published``: Published data sets by name: what is known of each, where its rows come from, what they
  become.
- ``repeats``: The same text under several ids: such items are one, so their clusters are one too.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
