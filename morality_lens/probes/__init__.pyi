from .axes import Axes as Axes, load_axes as load_axes
from .card import TrustCard as TrustCard
from .comparing import card_table as card_table, direction_cosines as direction_cosines
from .erasure import fit_leace as fit_leace
from .from_runs import condition_direction as condition_direction, fit_on_run as fit_on_run
from .from_statements import fit_axes as fit_axes, fit_probe as fit_probe, fit_probes as fit_probes
from .hub import from_hub as from_hub, push_to_hub as push_to_hub
from .interchange import (
    export_direction as export_direction,
    import_direction as import_direction,
    project_direction as project_direction,
)
from .probe import Probe as Probe, load_probe as load_probe
from .random_models import random_model_residuals as random_model_residuals
from .refits import (
    for_file as for_file,
    project_means as project_means,
    refit_directions as refit_directions,
    run_cell_means as run_cell_means,
    split_half_cosine as split_half_cosine,
)
from .statements import read_pairs as read_pairs, read_statements as read_statements
from .trust_checks import trust_card as trust_card
