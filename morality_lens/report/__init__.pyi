from .analysis import Analysis as Analysis, analyze as analyze
from .writing import keep_transcripts as keep_transcripts, write_report as write_report
