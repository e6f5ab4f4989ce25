from .by_component import attribute_effects as attribute_effects, describe_components as describe_components
from .claims import (
    claim_ladder as claim_ladder,
    describe_claims as describe_claims,
    equivalence as equivalence,
)
from .contrasts import between as between
from .crossing import cross_runs as cross_runs
from .describing import describe as describe, negative_control as negative_control
from .effects import factorial_effects as factorial_effects
from .odds import marginal_log_odds as marginal_log_odds
from .planning import plan as plan
from .ratios import mean_over_items as mean_over_items
from .tabulating import effects_table as effects_table
from .wordings import describe_wordings as describe_wordings, effects_over_wordings as effects_over_wordings
