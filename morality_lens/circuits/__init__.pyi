from .ablation import ablate as ablate
from .attribution import (
    attribute as attribute,
    attribute_answer as attribute_answer,
    attribute_tokens as attribute_tokens,
)
from .attribution_patching import patch_gradient as patch_gradient
from .mediation import mediate as mediate
from .patching import patch as patch
from .steering import steer as steer
from .summaries import (
    borne_share as borne_share,
    causal_lines as causal_lines,
    describe_mediation as describe_mediation,
    recovered as recovered,
    silenced as silenced,
    steering_slopes as steering_slopes,
)
