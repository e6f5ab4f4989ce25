from .calibration import (
    answer_calibration as answer_calibration,
    describe_calibration as describe_calibration,
    uncertainty_cube as uncertainty_cube,
)
from .detection import describe_detection as describe_detection, signal_detection as signal_detection
from .dynamics import (
    expected_maximum as expected_maximum,
    half_life as half_life,
    round_dynamics as round_dynamics,
)
from .evidence import Evidence as Evidence, load_evidence as load_evidence, weak_evidence as weak_evidence
from .masking import (
    component_words as component_words,
    mask_words as mask_words,
    without_words as without_words,
)
from .robustness import (
    describe_evidence as describe_evidence,
    dose_response as dose_response,
    evidence_shares as evidence_shares,
    follow_cube as follow_cube,
    moved_cube as moved_cube,
)
from .self_distinguish import distinguish as distinguish, name_groups as name_groups, own_pairs as own_pairs
from .shifts import describe_shifts as describe_shifts, round_shifts as round_shifts
from .trajectories import (
    change_cube as change_cube,
    compare_transitions as compare_transitions,
    describe_transitions as describe_transitions,
    reply_cube as reply_cube,
    settling_curve as settling_curve,
    settling_times as settling_times,
)
