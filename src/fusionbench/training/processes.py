"""The processes that do one piece of work together: who this one is, its part of the work, and sums over all of them.

A launcher (torchrun, `accelerate launch`, srun) starts them and says so in the environment. Where there is one process,
nothing here is done, and torch.distributed is not imported.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from fusionbench import errors
from fusionbench.errors import ConfigError, FusionBenchError

STARTED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher of processes sets."""
PATIENCE = timedelta(days=1)
"""How long a process waits for the others, which may have a suite to build or a model to write."""
MEETING = timedelta(minutes=5)
"""How long a process waits for the others to be started."""
LAST_WORDS = timedelta(seconds=10)
"""How long a process that lost another waits for the reason."""
BUCKET = 1 << 24
"""Entries of gradients that are sent at a time."""
FAILED, SAID = "failed", "said"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of one piece of work, and which of them this is.

    Attributes:
        rank: number of this one, from 0; the one of number 0, the main one, writes and speaks for all.
        count: how many there are.
        store: what they tell each other besides; None where there is one.
    """

    rank: int = 0
    count: int = 1
    store: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def portion(self, number: int, jobs: int) -> tuple[int, int] | None:
        """Return which part of job `number` of `jobs` falls to this process, `(part, parts)`; None where none does.

        Jobs go round the processes; where there are more processes than jobs, processes go round the jobs, and those
        of one job divide it.
        """
        if self.count <= jobs:
            return (0, 1) if number % self.count == self.rank else None
        if self.rank % jobs != number:
            return None
        return self.rank // jobs, len(range(number, self.count, jobs))

    def part_of(self, batch: dict[str, Any], number: int = 0, jobs: int = 1) -> tuple[dict[str, Any], float]:
        """Return this process's examples of a batch, and their share of it; a share of 0 where none are.

        Args:
            batch: tensors whose first dimension are its examples.
            number: of the job that the batch belongs to.
            jobs: how many there are a step; of one, every process has a part.
        """
        portion = self.portion(number, jobs)
        if portion == (0, 1):
            return batch, 1.0
        count = len(next(iter(batch.values())))
        part, parts = portion or (0, 1)
        rows = slice(count * part // parts, count * (part + 1) // parts) if portion else slice(0, 0)
        return {key: value[rows] for key, value in batch.items()}, (rows.stop - rows.start) / count

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over the processes of a tensor that each has, of one shape and kind; all get the same bits."""
        if self.count == 1:
            return tensor
        whole = tensor.detach().clone()
        self._together(lambda: torch.distributed.all_reduce(whole))
        return whole

    def sum_gradients(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over the processes in the place of each tensor's gradient.

        A process without a gradient adds nothing; a tensor that has one nowhere is left without.
        """
        if self.count == 1:
            return
        for bucket in _buckets(tensors):
            given = [torch.zeros_like(t) if t.grad is None else t.grad for t in bucket]
            there = given[0].new_tensor([t.grad is not None for t in bucket])
            flat = torch.cat([*(gradient.reshape(-1) for gradient in given), there])
            self._together(lambda flat=flat: torch.distributed.all_reduce(flat))  # type: ignore[misc]
            *parts, held = torch.split(flat, [*(t.numel() for t in bucket), len(bucket)])
            for tensor, part, count in zip(bucket, parts, held.tolist(), strict=True):
                if tensor.grad is not None:
                    tensor.grad.copy_(part.view_as(tensor))
                elif count:
                    tensor.grad = part.view_as(tensor).clone()

    def gather(self, thing: T) -> list[T]:
        """Return what each process has, in the order of their numbers: plain data, small tensors and arrays."""
        if self.count == 1:
            return [thing]
        found: list[Any] = [None] * self.count
        self._together(lambda: torch.distributed.all_gather_object(found, thing))
        return found

    def from_main(self, make: Callable[[], T]) -> T:
        """Return what the main process makes: it alone calls `make`, and sends the others the result, plain data."""
        if self.count == 1:
            return make()
        box = [make() if self.is_main else None]
        self._together(lambda: torch.distributed.broadcast_object_list(box, src=0))
        return box[0]  # type: ignore[return-value]

    def main_first(self, make: Callable[[], T]) -> T:
        """Return what `make` returns in this process, where it is called once the main one is done with it.

        What is made once and kept, as files, is so made by the main process and found by the others.
        """
        if self.count == 1:
            return make()
        made = [make()] if self.is_main else []
        self.wait()
        return made[0] if made else make()

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            self.gather(None)

    @contextmanager
    def united(self) -> Iterator[None]:
        """Let an error that leaves a `with` block in one process leave it in all, with the same kind and words.

        The group is left then, so that those that wait for this process hear of it.
        """
        if self.count == 1:
            yield
            return
        try:
            yield
        except BaseException as error:
            _tell(self, error)
            torch.distributed.destroy_process_group()
            raise

    def _together(self, do: Callable[[], Any]) -> None:
        """Do what all processes take part in.

        Raises:
            FusionBenchError: of the kind and with the words of the process that failed.
        """
        try:
            do()
        except RuntimeError as error:
            raise _told(self, error) from None


ALONE = Processes()


def several() -> bool:
    """Return whether a launcher started other processes beside this one, and says how to meet them."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1 and all(os.environ.get(name) for name in STARTED)


@contextmanager
def apart() -> Iterator[None]:
    """Hide for a `with` block that others were started, from libraries that would wait for them."""
    names = (*STARTED, "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


@cache
def joined() -> Processes:
    """Return the processes that a launcher started, once all of them are there; `ALONE` where it started one.

    Raises:
        ConfigError: where they do not find each other.
    """
    if not several():
        return ALONE
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    here = ", ".join(f"{name}={os.environ[name]}" for name in STARTED)
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        store, rank, count = next(rendezvous("env://", timeout=MEETING))
        # Tensors on the CPU go by gloo wherever the model lies: losses, seeds, plain data.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        own = PrefixStore("group", store)
        distributed.init_process_group(backend, store=own, rank=rank, world_size=count, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The processes of this run do not meet ({here}): {error}. Start them with torchrun or accelerate launch."
        ) from None
    return Processes(rank, count, PrefixStore("fusionbench", store))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield runs of tensors of one kind and device, of `BUCKET` entries or a little more."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        alike = not bucket or (bucket[0].dtype, bucket[0].device) == (tensor.dtype, tensor.device)
        if not alike or sum(held.numel() for held in bucket) >= BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def _tell(processes: Processes, error: BaseException) -> None:
    """Leave the reason of a failure for the others, where none has left one before and somebody is left to hear it."""
    kind, said = type(error).__name__, str(error)
    if not isinstance(error, FusionBenchError):
        kind = "Interrupted" if isinstance(error, KeyboardInterrupt) else "bug"
        said = "Stopped." if kind == "Interrupted" else "".join(traceback.format_exception(error))
    # The main process holds the store, and may have failed and gone: this one's own error is what counts then.
    with suppress(RuntimeError):
        processes.store.compare_set(FAILED, "", f"{processes.rank} {kind} {said}")


def _told(processes: Processes, error: RuntimeError) -> BaseException:
    """Return the error of the process that failed first, as it is raised here."""
    try:
        processes.store.wait([FAILED], LAST_WORDS)
        rank, kind, said = processes.store.get(FAILED).decode().split(" ", 2)
    except RuntimeError:
        why = str(error).partition("\n")[0]
        return FusionBenchError(
            f"A process of this run was lost ({why}); often the memory is too small. The same command goes on."
        )
    if kind == "bug":
        return RuntimeError(f"in process {rank}:\n{said}")
    found = getattr(errors, kind, FusionBenchError)
    # Past the constructor: some errors make their words from parts that are not told.
    made: FusionBenchError = found.__new__(found, said)
    made.about = None
    return made


def speaks(processes: Processes) -> bool:
    """Return whether this process is to say why the work failed: the main one, or any where the main one is busy."""
    if processes.is_main:
        return True
    try:
        processes.store.wait([SAID], 3 * LAST_WORDS)
        processes.store.set(_left(processes.rank), "1")
    except RuntimeError:
        return True
    return False


def has_spoken(processes: Processes) -> None:
    """Let the others go, since the reason has been said; the main process, which may hold the store, goes last."""
    with suppress(RuntimeError):
        processes.store.set(SAID, "1")
        if processes.is_main:
            processes.store.wait([_left(rank) for rank in range(1, processes.count)], LAST_WORDS)


def _left(rank: int) -> str:
    return f"left {rank}"
