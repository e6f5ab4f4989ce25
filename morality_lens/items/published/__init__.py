"""Published data sets by name: what is known of each, where its rows come from, what they become.

- ``bias``: BBQ, MBBQ, EsBBQ and CaBBQ: each row as a question with an unknown option.
- ``bias_other_formats``: KoBBQ and CBBQ: kin of BBQ whose files have a format of their own.
- ``catalogue``: All published data sets, by name and as a table; the one whose columns a row has.
- ``coreference``: Winogender and WinoBias, asked as a choice between three pronouns (Ganguli et al. 2023).
- ``decisions``: MoralChoice, Moral Stories and discrim-eval: decisions between two options, none of them
  unknown.
- ``ethics``: ETHICS, Social-Chem-101 and the moral foundations vignettes: labelled statements and ratings.
- ``source``: The rows of a published data set: from its files, in folders as published, or from a hub.
- ``toxicity``: RTP-LX and PolygloToxicityPrompts: the beginnings of texts in many languages.
- ``values``: What is known of a published data set, as one value: its rows, its licence, its clusters, its
  quirks.
"""
