"""First passes over a whole model that several processes divide: each counts in some tensors, and counts are added.

A kernel's first look asks for one pass after another, and what it asks of the next follows from what all before found.
So each process goes through the same look: earlier passes are told to it as sums, and the first that is not is its own.
No torch here.
"""

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from fusionbench.errors import CheckpointError
from fusionbench.kernels import Kernel, PartialScan, Scan, State, Visit
from fusionbench.registry import Entry
from fusionbench.weights.bounded import bounded
from fusionbench.weights.engine import Prepared, crew_of
from fusionbench.weights.jobs import Passes
from fusionbench.weights.plan import Plan

Values = Mapping[str, Any]
Pass = Callable[[Visit, Container[str] | None], State]


class _Counted(Exception):
    """Ends a look whose next pass was this process's."""

    def __init__(self, state: State) -> None:
        self.state = state


def added(states: Iterable[State]) -> State:
    """Return the sums of what passes over some tensors each found; the first state's numbers are written over."""
    total: State = {}
    for state in states:
        for key, found in state.items():
            if key in total:
                total[key] += found
            else:
                total[key] = found
    return total


def count_part(
    plan: Plan, own: Collection[str], method: Entry, *, values: Values, threads: int, memory: int | None, device: str,
    before: Sequence[State],
) -> State:  # fmt: skip
    """Return what the next pass of a method's first look finds in some tensors.

    Args:
        plan: of the whole model, each tensor once.
        own: names of the outputs that are looked at.
        method: whose kernel serves this plan.
        values: its parameters.
        threads: jobs at a time.
        memory: bytes that they may take.
        device: the recipe's.
        before: what the passes before found in the whole model, in their order; they are written over.

    Raises:
        CheckpointError: where no pass is left.
        FusionBenchError: see `fusionbench.weights.engine.run_plan`.
    """
    part = replace(plan, steps=tuple(step for step in plan if step.output.name in own))
    crew = crew_of(bounded(part, memory), method, values, threads, memory, device)
    look = crew.worker.kernel.prepare

    def counting(scan: Scan, _: object, **parameters: Any) -> State:
        def pass_of_own(visit: Visit, among: Container[str] | None) -> State:
            raise _Counted(added(scan(visit, among=among)))

        try:
            look(_told(before, pass_of_own), _own_parameters(plan), **parameters)
        except _Counted as counted:
            return counted.state
        raise CheckpointError(f"The first look of {method.name} has {len(before)} passes, and one more was asked for.")

    crew.worker.kernel = crew.worker.kernel._replace(prepare=counting)
    crew.worker.prepare(values, crew.threads, Passes(), crew.room)
    state: State = crew.worker.prepared
    return state


def look_in_parts(plan: Plan, kernel: Kernel, values: Values, ask: Callable[[int], State]) -> Prepared:
    """Return what a kernel's first look finds, where others count.

    Args:
        plan: of the whole model, each tensor once.
        kernel: with a first look.
        values: the method's parameters.
        ask: from a pass's number to the sums of what it finds in all tensors.
    """
    assert kernel.prepare is not None
    numbers = count()
    found = kernel.prepare(_told((), lambda *_: ask(next(numbers))), _own_parameters(plan), **values)
    return Prepared(found, next(numbers))


def _told(before: Sequence[State], last: Pass) -> PartialScan:
    """Return passes that are told what they find, but for the one after them."""
    left = iter(before)

    def scan(visit: Visit, *, among: Container[str] | None = None, most: int | None = None) -> Iterator[State]:
        # Without a sample, what is counted follows from sums alone.
        if most is None:
            state = next(left, None)
            yield last(visit, among) if state is None else state

    return scan


def _own_parameters(plan: Plan) -> Mapping[str, Mapping[str, Any]]:
    return {step.output.name: step.parameters for step in plan if step.action == "merge"}
