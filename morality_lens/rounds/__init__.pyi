from .playing import play as play
from .preflight import Fitting as Fitting
from .rereading import read_transcripts as read_transcripts
from .scoring import score_options as score_options
from .selection import Execution as Execution, Selection as Selection
