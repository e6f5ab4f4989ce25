from .alignment import alignable as alignable
from .exporting import export_residuals as export_residuals
from .inspect_logs import (
    InspectLog as InspectLog,
    inspect_cube as inspect_cube,
    read_inspect_log as read_inspect_log,
)
from .results import (
    keep_result as keep_result,
    kept_results as kept_results,
    read_result as read_result,
    write_result as write_result,
)
from .run import Run as Run, open_run as open_run
from .storage import Estimate as Estimate, Storage as Storage, estimate as estimate
from .transitions import answer_transitions as answer_transitions
from .verifying import Verification as Verification, verify_run as verify_run
from .workers import Pool as Pool
