"""Training after fusion: a fused model, or a pool of them, goes on learning and is written in the form it had."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fusionbench.config.runtime import TrackerName
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.families import family_for
from fusionbench.finetune.recipe import FinetuneRecipe, Tuning
from fusionbench.finetune.start import Start
from fusionbench.mixing.blueprint import FUSION_CONFIG, read_blueprint
from fusionbench.mixing.further import MixtureStart
from fusionbench.mixing.mixed import open_mixed
from fusionbench.run.federated import AVERAGE, Rounds, train_in_rounds
from fusionbench.run.folder import MODEL
from fusionbench.suites.model import Suite
from fusionbench.suites.registration import Progress
from fusionbench.suites.tuning import finetune_suite
from fusionbench.weights.companions import CONFIG
from fusionbench.weights.sources import TOGETHER, open_source


def train_further(
    init: str,
    suite: Suite,
    out: Path,
    recipe: FinetuneRecipe,
    *,
    tasks: Iterable[str] | None = None,
    mtl: bool = False,
    tuning: Tuning = "full",
    rounds: Rounds | None = None,
    checkpoint_every: int = 0,
    progress: Progress | None = None,
    teacher: str | None = None,
    trackers: tuple[TrackerName, ...] = (),
) -> dict[str, dict[str, Any]]:
    """Train what a fusion made, on tasks of a suite, with the heads that the suite has.

    Args:
        init: a run's folder, a model's, or one that holds a folder for each model of a pool; plain or with
            `fusion_config.json`.
        suite: whose tasks.
        out: takes a folder for each task, or one named "mtl"; of a pool, see `train_in_rounds`.
        recipe: rates, steps, what alone is trained, and the factor of the routers' balance loss.
        tasks: which; None takes the suite's seen and unseen ones; each model of a pool has its own.
        mtl: train on all tasks together, by the sum of their losses.
        tuning: "full", or an adapter on a plain model.
        rounds: of a pool: how many, and which of them average.
        checkpoint_every: steps between checkpoints; 0 is never.
        progress: told after each step.
        teacher: a plain model whose logits are the target: "base", an expert's name, or a reference.
        trackers: who is sent the curves of one model's trainings besides.

    Returns:
        The record of each model, by the name of its folder.

    Raises:
        CheckpointError: where there is no model, or it is damaged.
        ConfigError: where settings do not fit what there is.
        OutputError: where a folder is there already.
        Interrupted: on Ctrl-C; the same call goes on.
    """
    found = fused_folders(init)
    if isinstance(found, dict):
        if trackers:
            raise ConfigError(
                f"trackers: {init} is a pool, trained in rounds. Leave them out, or name one model of it."
            )
        if mtl or tuning != "full" or tasks is not None or teacher is not None:
            raise ConfigError(
                f"{init} is a pool of models ({', '.join(found)}), each of which is trained on its own task, whole. "
                "Leave tasks, mtl, tuning and teacher out, or name one model of it."
            )
        settings = rounds or Rounds()
        return {AVERAGE: train_in_rounds(found, suite, out, recipe, settings, checkpoint_every, progress)}
    check_init(found, suite)
    if rounds is not None:
        raise ConfigError(f"rounds: {init} is one model. Rounds are for a pool of models, as recombination makes it.")
    return finetune_suite(
        suite,
        out,
        recipe,
        tasks=tasks,
        mtl=mtl,
        tuning=tuning,
        checkpoint_every=checkpoint_every,
        progress=progress,
        init=found,
        start=start_of(found, tuning),
        teacher=teacher,
        trackers=trackers,
    )


def fused_folders(init: str) -> str | dict[str, Path]:
    """Return the reference of a fused model, or the folder of each model of a pool by its name.

    Raises:
        ConfigError: where a folder holds a model for each task, of which one has to be named, or parts of models that
            answer together.
    """
    folder = Path(init).expanduser()
    if (folder / MODEL).is_dir():
        folder = folder / MODEL
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return str(folder) if folder.is_dir() else init
    if (folder / "tasks").is_dir():
        first = min((folder / "tasks").iterdir())
        raise ConfigError(f"{init} holds a model for each task. Name the one that is to be trained: init={first}.")
    if said := next((name for name in TOGETHER if (folder / name).is_file()), None):
        raise ConfigError(
            f"init: the {said} of {init} says that several parts answer together, which cannot be trained as one. "
            "Train one of its models on its own, or what it was fused of, and fuse again."
        )
    pool = {path.name: path for path in sorted(folder.iterdir()) if (path / CONFIG).is_file()}
    return pool or str(folder)


def check_init(reference: str, suite: Suite) -> None:
    """Refuse a model that cannot be asked what the suite asks.

    Raises:
        ConfigError: where it is of another family, or knows fewer tokens than the suite's texts may have.
    """
    if suite.pool.base is None:
        return
    base, model = open_source(suite.pool.base), open_source(reference)
    blueprint = read_blueprint(model.folder)
    asked = family_for(base.config, suite.pool.family).name
    found = blueprint.family if blueprint is not None else family_for(model.config).name
    if asked != found:
        raise ConfigError(f"init: {reference} is of the family {found!r}, the tasks of {suite.name} are for {asked!r}.")
    most, known = (source.config.get("vocab_size") for source in (base, model))
    if most is not None and known is not None and known < most:
        raise ConfigError(
            f"init: {reference} knows {known} tokens, the texts of {suite.name} are made of {most}. It belongs to "
            "another tokenizer."
        )


def start_of(reference: str, tuning: Tuning) -> Callable[[], Start] | None:
    """Return what opens a mixture for a training; None where the model is plain.

    Raises:
        CheckpointError: where its blueprint is damaged.
        ConfigError: where an adapter is asked for on a mixture.
    """
    if not (Path(reference) / FUSION_CONFIG).is_file():
        return None
    if tuning != "full":
        raise ConfigError(f"tuning={tuning}: adapters are put on plain models, and {reference} has replaced modules.")

    def start() -> Start:
        source = open_source(reference)
        model = open_mixed(source)
        if model is None:
            raise CheckpointError(f"{reference} lost its {FUSION_CONFIG} while it was being trained.")
        return MixtureStart(model, source)

    return start
