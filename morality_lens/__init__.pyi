from . import (
    circuits as circuits,
    cli as cli,
    design as design,
    dialogues as dialogues,
    experiments as experiments,
    interactions as interactions,
    items as items,
    judges as judges,
    models as models,
    plots as plots,
    probes as probes,
    report as report,
    rounds as rounds,
    runs as runs,
    sparse as sparse,
    studies as studies,
    world as world,
)
from .circuits import attribute as attribute, mediate as mediate, patch as patch, steer as steer
from .design import Condition as Condition, Design as Design, Factor as Factor, Protocol as Protocol
from .interactions import describe as describe, factorial_effects as factorial_effects
from .items import (
    OpenPrompt as OpenPrompt,
    Question as Question,
    Statement as Statement,
    load_bbq as load_bbq,
    load_data as load_data,
    load_items as load_items,
    load_prompts as load_prompts,
    load_questions as load_questions,
    load_statements as load_statements,
)
from .models import load_model as load_model
from .plots import TranscriptView as TranscriptView
from .probes import Probe as Probe, fit_probe as fit_probe, load_probe as load_probe
from .report import analyze as analyze, write_report as write_report
from .rounds import play as play
from .runs import Run as Run, open_run as open_run
from .sparse import features as features, load_sae as load_sae
from .studies import study as study

__version__: str
