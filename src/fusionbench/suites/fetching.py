"""Everything that a suite needs from elsewhere, had once: models and data sets of the hub.

A download that is interrupted is gone on with by the next one; what is had only in part has no name that a run would
look under.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fusionbench.errors import FusionBenchError
from fusionbench.suites.model import Suite
from fusionbench.suites.paper import HEADS, origin_problem
from fusionbench.suites.registration import Progress
from fusionbench.suites.tasks import task_spec
from fusionbench.weights.hub import resolve


@dataclass(frozen=True, slots=True)
class Needed:
    """One thing that a suite needs.

    Attributes:
        what: "model", "head" or "data", and whose.
        reference: as the suite names it.
        problem: why it is not there, with the fix; None where it is.
    """

    what: str
    reference: str
    problem: str | None


def fetch_suite(suite: Suite, progress: Progress | None = None) -> tuple[Needed, ...]:
    """Fetch every model and every data set of a suite, and say of each whether it is there.

    Nothing stops at the first problem, so that one call tells all that is missing.

    Args:
        suite: with the experts and tasks that are wanted.
        progress: told what is fetched.
    """
    wanted = list(_wanted(suite))
    found = []
    for number, (what, reference, get) in enumerate(wanted):
        if progress:
            progress(f"fetching {reference}", number, len(wanted))
        try:
            get()
            problem = None
        except FusionBenchError as error:
            problem = str(error)
        found.append(Needed(what, reference, problem))
    if progress:
        progress("fetching", len(wanted), len(wanted))
    return tuple(found)


def _wanted(suite: Suite) -> Iterator[tuple[str, str, Callable[[], object]]]:
    models = {"base": suite.pool.base, "mtl": suite.pool.mtl}
    references: dict[str, str] = {}
    for name, reference in models.items():
        if reference is not None:
            references.setdefault(reference, name)
    for name, expert in suite.pool.experts.items():
        for reference in (expert.model, expert.adapter, expert.head):
            if reference is not None:
                references.setdefault(reference, name)
    for reference, name in references.items():
        yield f"model {name}", reference, partial(_model, suite, name, reference)
    seen: set[tuple[str, str | None]] = set()
    for name in dict.fromkeys((*suite.seen, *suite.unseen)):
        spec = task_spec(suite, name)
        if spec.head is not None and spec.head not in references:
            yield f"head {name}", spec.head, partial(_model, suite, f"{HEADS}{name}", spec.head)
        if (spec.dataset, spec.config) not in seen:
            seen.add((spec.dataset, spec.config))
            label = f"{spec.dataset} ({spec.config})" if spec.config else spec.dataset
            yield f"data {name}", label, partial(_data, suite, name)


def _model(suite: Suite, name: str, reference: str) -> Path:
    problem = origin_problem(suite, name, reference)
    if problem is not None:
        raise problem
    return resolve(reference)


def _data(suite: Suite, name: str) -> object:
    """Return something of a task that only its data give.

    Raises:
        MissingData: where these cannot be had.
    """
    from fusionbench.tasks.datasets import open_splits
    from fusionbench.tasks.lm_eval import data_of

    spec = task_spec(suite, name)
    if spec.kind == "lm_eval":
        return data_of(spec)
    if Path(spec.dataset).expanduser().exists():
        return spec.dataset
    return open_splits(spec.dataset, spec.config, spec.splits)
