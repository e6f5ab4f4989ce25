from .classifier import load_toxicity_classifier as load_toxicity_classifier
from .outcomes import (
    behaviour_cube as behaviour_cube,
    behaviour_table as behaviour_table,
    compare_scorings as compare_scorings,
    judges_agree as judges_agree,
    score_answers as score_answers,
)
from .positions import describe_positions as describe_positions, position_bias as position_bias
from .toxicity import fit_toxicity_judge as fit_toxicity_judge
