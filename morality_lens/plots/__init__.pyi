from .axes import (
    axes_cosines as axes_cosines,
    axes_cost as axes_cost,
    axes_effects as axes_effects,
    axes_transfer as axes_transfer,
)
from .changes import round_means as round_means, transition_effects as transition_effects
from .components import (
    attribution as attribution,
    attribution_heads as attribution_heads,
    attribution_layers as attribution_layers,
    attribution_segments as attribution_segments,
)
from .factorial import (
    accuracy as accuracy,
    behaviour_effects as behaviour_effects,
    cell_means as cell_means,
    effects as effects,
    effects_map as effects_map,
    trajectories as trajectories,
)
from .features import feature_effects as feature_effects, feature_shares as feature_shares
from .flow import answer_flow as answer_flow, transition_matrices as transition_matrices
from .interventions import (
    ablations as ablations,
    dose_response as dose_response,
    mediation as mediation,
    patching_layers as patching_layers,
    patching_map as patching_map,
)
from .lenses import (
    lens_agreement as lens_agreement,
    lens_curves as lens_curves,
    lens_effects as lens_effects,
    lens_onsets as lens_onsets,
)
from .overview import summary as summary
from .probes import (
    direction_cosines as direction_cosines,
    probe_quality as probe_quality,
    transfer as transfer,
    trust_card as trust_card,
)
from .study import ForestRow as ForestRow, evidence as evidence, forest as forest, shifts as shifts
from .transcripts import TranscriptView as TranscriptView
