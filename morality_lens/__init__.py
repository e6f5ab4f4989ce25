"""Mechanistic interpretability of moral self-correction in language models.

Names are imported from their modules when first used, so that importing the package loads neither torch nor
transformer-lens.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from morality_lens import plots as plots
    from morality_lens.aligning import alignable as alignable
    from morality_lens.analysis import Analysis as Analysis
    from morality_lens.analysis import analyze as analyze
    from morality_lens.analysis import keep_transcripts as keep_transcripts
    from morality_lens.analysis import write_report as write_report
    from morality_lens.attribution import attribute as attribute
    from morality_lens.attribution import attribute_answer as attribute_answer
    from morality_lens.attribution import attribute_tokens as attribute_tokens
    from morality_lens.bbq import load_bbq as load_bbq
    from morality_lens.behaviour import behaviour_cube as behaviour_cube
    from morality_lens.behaviour import behaviour_table as behaviour_table
    from morality_lens.behaviour import judges_agree as judges_agree
    from morality_lens.behaviour import score_answers as score_answers
    from morality_lens.card import TrustCard as TrustCard
    from morality_lens.causality import borne_share as borne_share
    from morality_lens.causality import causal_lines as causal_lines
    from morality_lens.causality import describe_mediation as describe_mediation
    from morality_lens.causality import recovered as recovered
    from morality_lens.causality import silenced as silenced
    from morality_lens.causality import steering_slopes as steering_slopes
    from morality_lens.claims import claim_ladder as claim_ladder
    from morality_lens.claims import describe_claims as describe_claims
    from morality_lens.claims import equivalence as equivalence
    from morality_lens.component_effects import attribute_effects as attribute_effects
    from morality_lens.component_effects import describe_components as describe_components
    from morality_lens.config import Study as Study
    from morality_lens.config import load_study as load_study
    from morality_lens.crossed import describe_wordings as describe_wordings
    from morality_lens.crossed import effects_over_wordings as effects_over_wordings
    from morality_lens.design import Condition as Condition
    from morality_lens.design import Design as Design
    from morality_lens.design import Factor as Factor
    from morality_lens.design import Protocol as Protocol
    from morality_lens.detection import describe_detection as describe_detection
    from morality_lens.detection import signal_detection as signal_detection
    from morality_lens.dynamics import expected_maximum as expected_maximum
    from morality_lens.dynamics import half_life as half_life
    from morality_lens.dynamics import round_dynamics as round_dynamics
    from morality_lens.erasure import fit_leace as fit_leace
    from morality_lens.evidence import Evidence as Evidence
    from morality_lens.evidence import load_evidence as load_evidence
    from morality_lens.evidence import weak_evidence as weak_evidence
    from morality_lens.fitting import fit_probe as fit_probe
    from morality_lens.gradients import patch_gradient as patch_gradient
    from morality_lens.hf_judge import load_toxicity_classifier as load_toxicity_classifier
    from morality_lens.hub import from_hub as from_hub
    from morality_lens.hub import push_to_hub as push_to_hub
    from morality_lens.inside import keep_result as keep_result
    from morality_lens.inside import kept_results as kept_results
    from morality_lens.interactions import between as between
    from morality_lens.interactions import describe as describe
    from morality_lens.interactions import factorial_effects as factorial_effects
    from morality_lens.interventions import ablate as ablate
    from morality_lens.interventions import steer as steer
    from morality_lens.items import OpenPrompt as OpenPrompt
    from morality_lens.items import Question as Question
    from morality_lens.items import Rating as Rating
    from morality_lens.items import Statement as Statement
    from morality_lens.items import forced_choice as forced_choice
    from morality_lens.judges import fit_toxicity_judge as fit_toxicity_judge
    from morality_lens.loaders import load_data as load_data
    from morality_lens.loaders import load_items as load_items
    from morality_lens.loaders import load_prompts as load_prompts
    from morality_lens.loaders import load_questions as load_questions
    from morality_lens.loaders import load_ratings as load_ratings
    from morality_lens.loaders import load_statements as load_statements
    from morality_lens.masking import component_words as component_words
    from morality_lens.masking import mask_words as mask_words
    from morality_lens.masking import without_words as without_words
    from morality_lens.mediation import mediate as mediate
    from morality_lens.model import load_model as load_model
    from morality_lens.model import record_of as record_of
    from morality_lens.odds import marginal_log_odds as marginal_log_odds
    from morality_lens.patching import patch as patch
    from morality_lens.planning import plan as plan
    from morality_lens.probes import Probe as Probe
    from morality_lens.probes import load_probe as load_probe
    from morality_lens.reading import read_pairs as read_pairs
    from morality_lens.reading import read_statements as read_statements
    from morality_lens.reading import read_transcripts as read_transcripts
    from morality_lens.refits import refit_directions as refit_directions
    from morality_lens.refits import split_half_cosine as split_half_cosine
    from morality_lens.robustness import describe_evidence as describe_evidence
    from morality_lens.robustness import dose_response as dose_response
    from morality_lens.robustness import evidence_shares as evidence_shares
    from morality_lens.robustness import follow_cube as follow_cube
    from morality_lens.rounds import play as play
    from morality_lens.run_probes import condition_direction as condition_direction
    from morality_lens.run_probes import fit_on_run as fit_on_run
    from morality_lens.self_distinguish import distinguish as distinguish
    from morality_lens.self_distinguish import name_groups as name_groups
    from morality_lens.self_distinguish import own_pairs as own_pairs
    from morality_lens.shifts import describe_shifts as describe_shifts
    from morality_lens.shifts import round_shifts as round_shifts
    from morality_lens.store import Run as Run
    from morality_lens.store import open_run as open_run
    from morality_lens.study_analysis import analyze_study as analyze_study
    from morality_lens.study_analysis import write_study_report as write_study_report
    from morality_lens.studying import study as study
    from morality_lens.transcripts import TranscriptView as TranscriptView
    from morality_lens.trust import trust_card as trust_card
    from morality_lens.twins import random_twin_residuals as random_twin_residuals
    from morality_lens.verdicts import Verdict as Verdict
    from morality_lens.wording import load_wording as load_wording

_HOMES = {
    "aligning": ("alignable",),
    "analysis": ("Analysis", "analyze", "keep_transcripts", "write_report"),
    "attribution": ("attribute", "attribute_answer", "attribute_tokens"),
    "bbq": ("load_bbq",),
    "behaviour": ("behaviour_cube", "behaviour_table", "judges_agree", "score_answers"),
    "card": ("TrustCard",),
    "causality": (
        "borne_share",
        "causal_lines",
        "describe_mediation",
        "recovered",
        "silenced",
        "steering_slopes",
    ),
    "claims": ("claim_ladder", "describe_claims", "equivalence"),
    "component_effects": ("attribute_effects", "describe_components"),
    "config": ("Study", "load_study"),
    "crossed": ("describe_wordings", "effects_over_wordings"),
    "design": ("Condition", "Design", "Factor", "Protocol"),
    "detection": ("describe_detection", "signal_detection"),
    "dynamics": ("expected_maximum", "half_life", "round_dynamics"),
    "erasure": ("fit_leace",),
    "evidence": ("Evidence", "load_evidence", "weak_evidence"),
    "fitting": ("fit_probe",),
    "gradients": ("patch_gradient",),
    "hf_judge": ("load_toxicity_classifier",),
    "hub": ("from_hub", "push_to_hub"),
    "inside": ("keep_result", "kept_results"),
    "interactions": ("between", "describe", "factorial_effects"),
    "interventions": ("ablate", "steer"),
    "items": ("OpenPrompt", "Question", "Rating", "Statement", "forced_choice"),
    "judges": ("fit_toxicity_judge",),
    "loaders": (
        "load_data",
        "load_items",
        "load_prompts",
        "load_questions",
        "load_ratings",
        "load_statements",
    ),
    "masking": ("component_words", "mask_words", "without_words"),
    "mediation": ("mediate",),
    "model": ("load_model", "record_of"),
    "odds": ("marginal_log_odds",),
    "patching": ("patch",),
    "planning": ("plan",),
    "probes": ("Probe", "load_probe"),
    "reading": ("read_pairs", "read_statements", "read_transcripts"),
    "refits": ("refit_directions", "split_half_cosine"),
    "robustness": ("describe_evidence", "dose_response", "evidence_shares", "follow_cube"),
    "rounds": ("play",),
    "run_probes": ("condition_direction", "fit_on_run"),
    "self_distinguish": ("distinguish", "name_groups", "own_pairs"),
    "shifts": ("describe_shifts", "round_shifts"),
    "store": ("Run", "open_run"),
    "study_analysis": ("analyze_study", "write_study_report"),
    "studying": ("study",),
    "transcripts": ("TranscriptView",),
    "trust": ("trust_card",),
    "twins": ("random_twin_residuals",),
    "verdicts": ("Verdict",),
    "wording": ("load_wording",),
}
_WHERE = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_WHERE, "plots"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name == "plots":
        return importlib.import_module("morality_lens.plots")
    if name not in _WHERE:
        raise AttributeError(f"module 'morality_lens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"morality_lens.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
