"""`finetune`: experts of a suite, or one model on all its tasks."""

from pathlib import Path
from typing import Annotated

import typer

from fusionbench.cli.console import progress, say


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(
        epilog="Example: fusionbench finetune suite=mini/clip tasks=[mnist,signs] recipe.steps=250 "
        "recipe.learning_rate=3e-4 --out experts"
    )(finetune)


def finetune(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as suite=mini/clip mtl=true")] = None,
    out: Annotated[Path, typer.Option(help="Takes a folder for each model.")] = Path("experts"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the settings, train nothing.")] = False,
) -> None:
    """Fine-tune a suite's base: one expert a task, or with mtl=true one model on all of them."""
    from fusionbench.suites.request import FinetuneRequest

    request = FinetuneRequest.load(overrides or [])
    if dry_run:
        import yaml

        say(yaml.safe_dump({**request.model_dump(mode="json"), "recipe": request.settings().model_dump(mode="json")}))
        return
    from fusionbench.suites.load import load_suite
    from fusionbench.suites.tuning import finetune_suite

    with progress() as advance:
        suite = load_suite(request.suite, progress=advance).suite
        records = finetune_suite(
            suite,
            out,
            request.settings(),
            tasks=request.tasks,
            mtl=request.mtl,
            tuning=request.tuning,
            checkpoint_every=request.checkpoint_every,
            progress=advance,
        )
    for name, record in records.items():
        scores = ", ".join(
            f"{task} {metric} {value:.4f}"
            for task, by in record["scores"].items()
            for metric, value in by["test"].items()
        )
        say(f"{out / name}: {scores}")
