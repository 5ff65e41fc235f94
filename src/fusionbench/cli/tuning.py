"""`finetune`: experts of a suite, or one model on all its tasks."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusionbench.cli.console import local_folder, progress, say

if TYPE_CHECKING:
    from fusionbench.suites.registration import Progress
    from fusionbench.suites.request import FinetuneRequest
    from fusionbench.training import Processes


def add_to(application: typer.Typer) -> None:
    """Add this group's verbs."""
    application.command(
        epilog="Example: fusionbench finetune suite=mini/clip tasks=[mnist,signs] recipe.steps=250 "
        "recipe.learning_rate=3e-4 --out experts"
    )(finetune)


def finetune(
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as suite=mini/clip mtl=true")] = None,
    out: Annotated[Path, typer.Option(parser=local_folder, help="Folder that gets one folder for each model.")] = Path(
        "experts"
    ),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the settings, train nothing.")] = False,
) -> None:
    """Fine-tune a suite's base, one expert a task. With init=RUN a fused model; with mtl=true one expert on all."""
    from fusionbench.suites.request import FinetuneRequest

    request = FinetuneRequest.load(overrides or [])
    if dry_run:
        import yaml

        say(yaml.safe_dump({**request.model_dump(mode="json"), "recipe": request.settings().model_dump(mode="json")}))
        return
    with progress() as advance:
        records = _train(request, out, advance)
    for name, record in records.items():
        scores = ", ".join(
            f"{task} {metric} {value:.4f}"
            for task, by in record["scores"].items()
            for metric, value in by["test"].items()
        )
        say(f"{out / name}: {scores}")


def _train(request: "FinetuneRequest", out: Path, advance: "Progress") -> dict[str, dict[str, Any]]:
    """Return the record of each model that was trained, by the name of its folder."""
    from fusionbench.training.processes import joined

    processes = joined()
    with processes.united():
        return _train_together(request, out, advance, processes)


def _train_together(
    request: "FinetuneRequest", out: Path, advance: "Progress", processes: "Processes"
) -> dict[str, dict[str, Any]]:
    from fusionbench.errors import ConfigError
    from fusionbench.suites.load import load_suite
    from fusionbench.suites.tuning import finetune_suite

    suite = processes.main_first(lambda: load_suite(request.suite, progress=advance)).suite
    settings: dict[str, Any] = {
        "tasks": request.tasks,
        "mtl": request.mtl,
        "tuning": request.tuning,
        "checkpoint_every": request.checkpoint_every,
        "progress": advance,
        "teacher": request.teacher,
        "trackers": request.trackers,
    }
    if request.init is None:
        return finetune_suite(suite, out, request.settings(), **settings, device=request.device, processes=processes)
    if processes.count > 1:
        raise ConfigError(f"init={request.init}: what a fusion made is trained by one process; start no others.")
    from fusionbench.run.federated import Rounds
    from fusionbench.run.further import train_further

    rounds = None if request.rounds is None else Rounds(request.rounds, request.averaged)
    return train_further(request.init, suite, out, request.settings(), rounds=rounds, **settings)
