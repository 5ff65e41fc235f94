"""Tasks of the LM Evaluation Harness (the extra `lm-eval`): its data, prompts and answers, scored on a fused model."""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusionbench.config import Config
from fusionbench.config.fields import Count, Text
from fusionbench.errors import ConfigError, FusionBenchError, MissingData, MissingExtra, MissingPart, NotAdaptable
from fusionbench.families import Backbone, Batch, Family, HasTextToText, as_source
from fusionbench.families.tokens import tokenizer_in
from fusionbench.tasks.base import Metric, Predictor, Rows, Split
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import TaskSpec
from fusionbench.weights.headers import Source

LIMIT = "limit"
"""Key of a batch: how many examples of each of the harness's tasks are asked for; absent: all."""


def mean_score(rows: Rows) -> tuple[float, float]:
    """Return the mean of the examples' scores and its standard error, s / √n; 0 of a single example.

    Args:
        rows: "score", `(examples,)`, at least one.
    """
    scores = rows["score"].astype(np.float64)
    error = float(scores.std(ddof=1)) / len(scores) ** 0.5 if len(scores) > 1 else 0.0
    return float(scores.mean()), error


@dataclass(frozen=True)
class LmEvalTask:
    """A task of the harness, or a group of them such as `mmlu`, run with the harness's own model object.

    It is scored as a whole: there is one batch, and the harness makes its own. There is nothing to learn from.

    Attributes:
        name: in tables.
        family: a decoder-only one.
        folder: of the base's tokenizer.
        harness_name: the harness's name of the task or group.
        metric: which of the task's metrics, by the harness's name, such as `acc_norm`.
        filter: which of the task's filters of answers, such as `flexible-extract`; "none" where it has none.
        shots: examples before each question; None takes the task's own number.
        batch: questions that the harness runs at a time.
        include: a folder of the harness's YAML files, for tasks of one's own.
        version: raised when the task's numbers change.
    """

    name: str
    family: Family
    folder: Path
    harness_name: str
    metric: str
    filter: str = "none"
    shots: int | None = None
    batch: int = 1
    include: Path | None = None
    version: int = 1

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metric, under the harness's name."""
        return (Metric(self.metric, "fraction", "higher", mean_score),)

    def size(self, split: Split) -> int:
        """Return the number of questions of all its tasks.

        Raises:
            MissingData: for another split than the test split, or where the data are not there.
        """
        self._check(split)
        return sum(len(list(one.eval_docs)) for one in _loaded(self.harness_name, self.include)["tasks"].values())

    def batches(
        self,
        split: Split,
        *,
        size: int,  # noqa: ARG002
        seed: int | None = None,
        start: int = 0,
        limit: int | None = None,
        labels: bool = True,
    ) -> Iterator[Batch]:
        """Yield one batch, which stands for all examples. See `Task.batches` for the arguments.

        Raises:
            MissingData: for another split than the test split, or where batches to learn from are asked for.
        """
        self._check(split)
        if seed is not None or start or not labels:
            raise MissingData(f"The task {self.name} is of the LM Evaluation Harness: nothing can be learnt from it.")
        yield {} if limit is None else {LIMIT: limit}

    def _check(self, split: Split) -> None:
        if split != "test":
            raise MissingData(f"The task {self.name} is of the LM Evaluation Harness and has no split but test.")

    def bind(self, backbone: Backbone) -> Predictor:
        """Return what answers with all samples of the harness, each a mapping of its metrics.

        Raises:
            FusionBenchError: where the model is no single module of Hugging Face's kind.
        """
        if not isinstance(backbone, nn.Module) or not hasattr(backbone, "generate"):
            raise FusionBenchError(
                f"The task {self.name} is of the LM Evaluation Harness, which runs one language model; a "
                f"{type(backbone).__name__} is none. Merge the models instead."
            )

        def predict(batch: Batch) -> list[Mapping[str, Any]]:
            return self._run(backbone, batch.get(LIMIT))

        return predict

    def _run(self, module: nn.Module, limit: int | None) -> list[Mapping[str, Any]]:
        evaluator, models = _harness()
        with _own_generators(), torch.inference_mode():
            language_model = models.HFLM(
                pretrained=module, tokenizer=tokenizer_in(self.folder), backend="causal", batch_size=self.batch
            )
            found = evaluator.simple_evaluate(
                model=language_model, tasks=[self.harness_name], num_fewshot=self.shots, limit=limit,
                task_manager=_manager(self.include), bootstrap_iters=0,
            )  # fmt: skip
        samples = [
            sample
            for name in sorted(found["samples"])
            for sample in found["samples"][name]
            if sample["filter"] == self.filter
        ]
        self._check_mean(samples, found["results"][self.harness_name])
        return samples

    def _check_mean(self, samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> None:
        """Refuse a metric that is no mean over examples: its rows would mean something else than its value."""
        key = f"{self.metric},{self.filter}"
        if key not in results or not samples or self.metric not in samples[0]:
            known = ", ".join(sorted(name for name in results if "," in name and "_stderr" not in name))
            raise ConfigError(
                f"The task {self.name}: the harness gives no {self.metric} with the filter {self.filter} for "
                f"{self.harness_name}; it gives {known}. Name one of them in options.metric and options.filter."
            )
        mean = float(np.mean([float(sample[self.metric]) for sample in samples]))
        if abs(mean - float(results[key])) > 1e-6:
            raise ConfigError(
                f"The task {self.name}: {self.metric} of {self.harness_name} is {results[key]}, the mean over examples "
                f"{mean}. Only metrics that are such means are read; choose another."
            )

    def loss(self, predict: Predictor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Refuse: nothing is trained on the harness's tasks.

        Raises:
            NotAdaptable: always.
        """
        raise NotAdaptable(f"The task {self.name} is of the LM Evaluation Harness: it is scored, not trained on.")

    def objective(self, predict: Predictor, batch: Batch) -> Tensor:  # noqa: ARG002
        """Refuse: the harness asks for answers, not for distributions.

        Raises:
            NotAdaptable: always.
        """
        raise NotAdaptable(f"The task {self.name} is of the LM Evaluation Harness: nothing can be adapted on it.")

    def rows(self, predict: Predictor, batch: Batch) -> Rows:
        """Return "score", `(examples,)` float64: the harness's metric of each example."""
        samples = predict(batch)
        return {"score": np.array([float(sample[self.metric]) for sample in samples])}


def _harness() -> tuple[Any, Any]:
    """Return the harness's evaluator and its Hugging Face models.

    Raises:
        MissingExtra: where it is not installed.
    """
    try:
        from lm_eval import evaluator
        from lm_eval.models import huggingface
    except ImportError:
        raise MissingExtra("A task of the LM Evaluation Harness", "'fusionbench[lm-eval]'") from None
    return evaluator, huggingface


def _manager(include: Path | None) -> Any:
    _harness()
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=None if include is None else str(include))


def _loaded(harness_name: str, include: Path | None) -> Any:
    try:
        return _manager(include).load([harness_name])
    except (KeyError, ValueError, OSError) as error:
        raise MissingData(
            f"The task {harness_name} of the LM Evaluation Harness cannot be had: "
            f"{(str(error) or type(error).__name__).splitlines()[0]}. Name one that `lm-eval ls tasks` lists, or fetch "
            "its data once with a network: fusionbench fetch suite=NAME."
        ) from None


def data_of(spec: TaskSpec) -> Any:
    """Return what the harness holds of a task after fetching its data.

    Raises:
        MissingExtra: where the harness is not installed.
        MissingData: where it has no such task, or the data cannot be had.
    """
    options = _Options.read(spec.options, f"options of {spec.dataset}")
    return _loaded(spec.dataset, None if options.include is None else Path(options.include).expanduser())


@contextmanager
def _own_generators() -> Iterator[None]:
    """Put back the generators of random numbers, which the harness seeds for the whole process."""
    plain, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(arrays)


class _Options(Config):
    """What a suite's YAML says of such a task under `options`."""

    metric: Text
    filter: Text = "none"
    shots: int | None = None
    batch: Count = 1
    include: Text | None = None


@task("lm_eval")
def lm_eval_task(name: str, spec: TaskSpec, family: Family, base: Source | nn.Module) -> LmEvalTask:
    """A task of the LM Evaluation Harness, by its name there; needs the extra `lm-eval`."""
    _harness()
    if not isinstance(family, HasTextToText):
        raise MissingPart(family.name, f"text output, which the task {name} is about")
    options = _Options.read(spec.options, f"options of the task {name}")
    if spec.splits is not None or "metrics" in spec.model_fields_set:
        raise ConfigError(f"The task {name} is of the LM Evaluation Harness: give options.metric; it has no splits.")
    folder = as_source(base).folder
    if folder is None:
        raise MissingData(f"The task {name} needs the base's tokenizer, and the base is no folder. Save it to one.")
    include = None if options.include is None else Path(options.include).expanduser()
    if include is not None and not include.is_dir():
        raise MissingData(f"The task {name}: options.include names {include}, which is no folder.")
    return LmEvalTask(
        name, family, folder, spec.dataset, options.metric, options.filter, options.shots, options.batch, include,
        spec.version,
    )  # fmt: skip
