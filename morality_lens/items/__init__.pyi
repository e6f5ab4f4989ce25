from .bbq import load_bbq as load_bbq
from .data import load_data as load_data
from .kinds import (
    OpenPrompt as OpenPrompt,
    Question as Question,
    Rating as Rating,
    Statement as Statement,
    forced_choice as forced_choice,
)
from .loaders import (
    load_items as load_items,
    load_prompts as load_prompts,
    load_questions as load_questions,
    load_ratings as load_ratings,
    load_statements as load_statements,
)
from .permuting import original_options as original_options, permute_options as permute_options
from .published.catalogue import data_sets as data_sets
