"""The command that loads a model and tests it: ``morality-lens check``."""

from dataclasses import asdict

from morality_lens.cli.console import load, phase, print_json, print_lines, print_table, shown, steps
from morality_lens.cli.model_options import (
    Device,
    DeviceMap,
    Dtype,
    ModelName,
    ModelOptions,
    Quantization,
    Revision,
    SystemPrompt,
    TemplateKeywords,
    read_template_keywords,
)
from morality_lens.cli.places import refuse_missing


def check(
    model: ModelName = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
    template: TemplateKeywords = None,
    quantization: Quantization = None,
    system_prompt: SystemPrompt = None,
) -> None:
    """Load a model and print its self-test.

    --json prints {"model": ..., "architecture": ..., "checks": [{"name", "difference", "tolerance",
    "passed"}], "own_template": whether it has a chat template, "prefix_reuse": whether earlier turns are
    cached from round to round, "window": tokens}.
    """
    refuse_missing(models=[model])
    options = ModelOptions(
        model=model,
        device=device,
        dtype=dtype or "auto",
        revision=revision,
        device_map=device_map,
        template_keywords=read_template_keywords(template),
        quantization=quantization,
    )
    from morality_lens.dialogues.rendering import check_system
    from morality_lens.models.loading import record_of

    steps.start(1)
    with phase("loading the model and running its self-test"):
        record = record_of(load(options))
    if system_prompt is not None:
        check_system(record.renderer)
    if shown.json:
        told = [{**asdict(one), "passed": one.passed} for one in record.checks]
        print_json(
            {
                "model": record.name,
                "architecture": record.architecture,
                "checks": told,
                "own_template": not record.renderer.plain,
                "prefix_reuse": record.prefix_reuse,
                "window": record.window.tokens,
            }
        )
        return
    rows = [(one.name, f"{one.difference:.2g}", f"{one.tolerance:.0e}") for one in record.checks]
    title = f"{record.name} ({record.architecture})"
    print_table(("check", "largest difference", "allowed"), rows, title=title)
    reuse = "cached from round to round" if record.prefix_reuse else "recomputed in every round"
    print_lines(f"chat template: {'plain' if record.renderer.plain else 'own'}; earlier turns are {reuse}")
    print_lines(f"context window: {record.window.tokens} tokens")
