from .playing import finish as finish, play as play, play_parts as play_parts, prepare as prepare
from .preflight import Fitting as Fitting
from .rereading import read_transcripts as read_transcripts
from .scoring import score_options as score_options
from .selection import Execution as Execution, Selection as Selection
from .spreading import spread as spread
