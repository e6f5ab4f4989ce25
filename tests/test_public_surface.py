"""What is public: `ml.<name>` and `ml.<package>.<name>`, each there, whatever was imported before."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import morality_lens as ml

ROOT = Path(ml.__file__).parent

SURFACE = {
    "circuits": """
        Activations Batching Doses Moment RandomDirections Reading ablate attribute attribute_answer
        attribute_tokens TunedLens answer_onsets describe_lens feature_tokens lens lens_agreement
        lens_curves load_tuned_lens mediated_share causal_lines describe_mediation mediate patch
        patch_gradient recovered ablated_share steer steering_slopes steering_cost describe_cost
    """,
    "cli": """
        RunConfig StudyConfig load_study load_study_config
    """,
    "dialogues": """
        load_wording
    """,
    "experiments": """
        Evidence answer_calibration change_cube compare_transitions component_words
        describe_calibration describe_detection describe_evidence describe_shifts
        describe_transitions distinguish dose_response evidence_shares expected_maximum follow_cube
        half_life load_evidence mask_words moved_cube name_groups own_pairs reply_cube
        round_dynamics round_shifts settling_curve settling_times signal_detection uncertainty_cube
        weak_evidence without_words
    """,
    "interactions": """
        attribute_effects between claim_ladder cross_runs describe describe_claims describe_components
        describe_wordings effects_over_wordings effects_table equivalence factorial_effects marginal_log_odds
        mean_over_items negative_control plan
    """,
    "items": """
        OpenPrompt Question Rating Statement data_sets forced_choice load_bbq load_data load_items
        load_prompts load_questions load_ratings load_statements original_options permute_options
    """,
    "judges": """
        behaviour_cube behaviour_table compare_scorings describe_positions fit_toxicity_judge judges_agree
        load_toxicity_classifier position_bias score_answers
    """,
    "ml": """
        Condition Design Factor OpenPrompt Probe Protocol Question Run Statement TranscriptView analyze
        attribute circuits cli describe design dialogues experiments factorial_effects features fit_probe
        interactions items judges load_bbq load_items load_model load_probe load_sae load_prompts
        load_questions load_statements mediate models open_run patch play plots probes report rounds runs
        sparse steer studies study world write_report load_data
    """,
    "models": """
        load_model record_of
    """,
    "plots": """
        ForestRow TranscriptView ablations accuracy answer_flow attribution attribution_heads
        axes_cosines axes_cost axes_effects axes_transfer
        attribution_layers attribution_segments behaviour_effects cell_means direction_cosines
        lens_agreement lens_curves lens_effects lens_onsets dose_response effects effects_map evidence
        feature_effects feature_shares forest mediation patching_layers patching_map probe_quality shifts
        summary trajectories transfer transition_matrices trust_card round_means transition_effects
    """,
    "probes": """
        Axes Probe TrustCard card_table condition_direction direction_cosines export_direction
        fit_axes fit_leace fit_on_run fit_probe fit_probes for_file from_hub import_direction
        load_axes load_probe project_direction project_means push_to_hub random_model_residuals
        read_pairs read_statements refit_directions run_cell_means split_half_cosine trust_card
    """,
    "report": """
        Analysis analyze effects_on_axes keep_transcripts push_run_to_hub write_dataset_card write_report
    """,
    "rounds": """
        Execution Fitting Selection finish play play_parts prepare read_transcripts score_options spread
    """,
    "runs": """
        Estimate InspectLog Pool Run Storage Verification alignable answer_transitions estimate
        export_residuals inspect_cube keep_result kept_results open_run read_inspect_log read_result
        verify_run write_result
    """,
    "sparse": """
        Choice FeatureCard SparseAutoencoder check_sae describe_shares direction_shares feature_cards
        feature_effects features load_sae split_direction
    """,
    "studies": """
        Material PROFILES Plan Settings Verdict analyze_study estimate study write_study_report
    """,
    "world": """
        planted_verdicts
    """,
}
"""Every public name. A change here is a change for users, and belongs into the CHANGELOG."""

PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def module(name: str) -> ModuleType:
    return ml if name == "ml" else importlib.import_module(f"morality_lens.{name}")


def test_every_package_has_its_list():
    assert len(PACKAGES) > 10
    assert {*PACKAGES, "ml"} == set(SURFACE)


@pytest.mark.parametrize("name", SURFACE)
def test_the_public_names_are_these(name):
    assert sorted(module(name).__all__) == sorted(SURFACE[name].split())


@pytest.mark.parametrize("name", SURFACE)
def test_every_public_name_is_there(name):
    for public in SURFACE[name].split():
        assert getattr(module(name), public) is not None
        assert public in dir(module(name))


def test_no_module_hides_a_public_name():
    """A module imported by its path becomes an attribute of its package."""
    for name, public in SURFACE.items():
        folder = ROOT if name == "ml" else ROOT / name
        modules = {path.stem for path in folder.glob("*.py")}
        if name != "ml":
            modules |= {path.name for path in folder.iterdir() if path.is_dir()}
        assert not modules & set(public.split()) - {"design"}, name


ORDER = """
import importlib, sys
from pathlib import Path
import morality_lens as ml

root = Path(ml.__file__).parent
paths = [p.relative_to(root.parent).with_suffix("") for p in sorted(root.rglob("*.py"))]
modules = [".".join(p.parts) for p in paths if p.stem not in ("__init__", "__main__")]
surface = {surface!r}


def look():
    found = {{}}
    for package, names in surface.items():
        home = ml if package == "ml" else getattr(ml, package)
        found |= {{(package, name): getattr(home, name) for name in names.split()}}
    return found


if {first!r} == "modules":
    for name in modules:
        importlib.import_module(name)
    before = look()
else:
    before = look()
    for name in modules:
        importlib.import_module(name)
after = look()
assert all(after[key] is value for key, value in before.items())
for package, names in surface.items():  # what a notebook completes: no submodule, nothing that was imported
    assert sorted(dir(ml if package == "ml" else getattr(ml, package))) == sorted(names.split()), package
for (package, name), value in after.items():
    print(package, name, type(value).__name__, getattr(value, "__module__", getattr(value, "__name__", "")))
"""


def test_every_name_is_the_same_in_any_order_of_import():
    said = [
        subprocess.run(
            [sys.executable, "-c", ORDER.format(surface=SURFACE, first=first)],
            capture_output=True, text=True, check=True,
        ).stdout
        for first in ("modules", "names")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert len(said[0].splitlines()) == sum(len(names.split()) for names in SURFACE.values())
    modules = {line.split()[1] for line in said[0].splitlines() if " module " in line}
    assert modules == {*PACKAGES, "design"}


def test_every_package_has_a_stub_that_is_its_list_of_names():
    for name in SURFACE:
        file = Path(str(module(name).__file__)).with_suffix(".pyi")
        tree = ast.parse(file.read_text())
        named = [a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names]
        assert len(named) == len(set(named))
        assert set(named) == set(SURFACE[name].split())
