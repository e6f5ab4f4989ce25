from .ablation import ablate as ablate
from .attribution import (
    attribute as attribute,
    attribute_answer as attribute_answer,
    attribute_tokens as attribute_tokens,
)
from .attribution_patching import patch_gradient as patch_gradient
from .costs import steering_cost as steering_cost
from .forming import (
    answer_onsets as answer_onsets,
    describe_lens as describe_lens,
    lens_agreement as lens_agreement,
    lens_curves as lens_curves,
)
from .lenses import lens as lens
from .mediation import mediate as mediate
from .patching import patch as patch
from .reading_features import feature_tokens as feature_tokens
from .settings import (
    Activations as Activations,
    Batching as Batching,
    Doses as Doses,
    Moment as Moment,
    RandomDirections as RandomDirections,
    Reading as Reading,
)
from .steering import steer as steer
from .summaries import (
    ablated_share as ablated_share,
    causal_lines as causal_lines,
    describe_cost as describe_cost,
    describe_mediation as describe_mediation,
    mediated_share as mediated_share,
    recovered as recovered,
    steering_slopes as steering_slopes,
)
from .tuned_lenses import TunedLens as TunedLens, load_tuned_lens as load_tuned_lens
