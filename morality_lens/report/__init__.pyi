from .analysis import Analysis as Analysis, analyze as analyze
from .axes import effects_on_axes as effects_on_axes
from .card import push_run_to_hub as push_run_to_hub, write_dataset_card as write_dataset_card
from .writing import keep_transcripts as keep_transcripts, write_report as write_report
