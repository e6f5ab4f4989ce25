from .playing import play as play
from .rereading import read_transcripts as read_transcripts
