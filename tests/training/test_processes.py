import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

from forked import FailedThere, in_processes
from fusionbench.errors import ConfigError, FusionBenchError, MissingPart
from fusionbench.training import ALONE, Loop, Point, Processes, Steps, joined, read_curve, step_of
from fusionbench.training import processes as module


def test_jobs_go_round_the_processes_and_more_processes_divide_them():
    eight_by_three = [[job for job in range(8) if Processes(rank, 3).portion(job, 8)] for rank in range(3)]
    assert eight_by_three == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert Processes(2, 3).portion(5, 8) == (0, 1)
    # Five processes and two jobs: three divide the first, two the second.
    assert [Processes(rank, 5).portion(0, 2) for rank in range(5)] == [(0, 3), None, (1, 3), None, (2, 3)]
    assert [Processes(rank, 5).portion(1, 2) for rank in range(5)] == [None, (0, 2), None, (1, 2), None]
    assert ALONE.portion(3, 8) == (0, 1)


def test_the_parts_of_a_batch_are_all_of_it_once():
    batch = {"x": torch.arange(7), "y": torch.arange(14).view(7, 2)}
    parts = [Processes(rank, 3).part_of(batch) for rank in range(3)]
    assert [part["x"].tolist() for part, _ in parts] == [[0, 1], [2, 3], [4, 5, 6]]
    assert parts[1][0]["y"].tolist() == [[4, 5], [6, 7]]
    assert [share for _, share in parts] == [2 / 7, 2 / 7, 3 / 7]
    assert [share for _, share in (Processes(rank, 3).part_of({"x": torch.arange(2)}) for rank in range(3))] == [
        0.0,
        0.5,
        0.5,
    ]
    assert ALONE.part_of(batch) == (batch, 1.0)


def test_sums_are_over_all_and_a_gradient_that_nobody_has_stays_away():
    def work():
        processes = joined()
        first, second, third = (torch.zeros(2, requires_grad=True) for _ in range(3))
        first.grad = torch.tensor([1.0, 2.0]) * (processes.rank + 1)
        if processes.rank == 1:
            second.grad = torch.tensor([5.0, 7.0])
        processes.sum_gradients([first, second, third])
        total = processes.sum(torch.tensor(10.0**processes.rank))
        told = processes.from_main(lambda: f"by {processes.rank}")
        grads = [None if t.grad is None else t.grad.tolist() for t in (first, second, third)]
        return grads, total.item(), processes.gather(processes.rank), told

    for grads, total, gathered, told in in_processes(2, work):
        assert grads == [[3.0, 6.0], [5.0, 7.0], None]
        assert (total, gathered, told) == (11.0, [0, 1], "by 0")


def test_gradients_are_sent_in_buckets_of_one_kind_of_number(monkeypatch):
    monkeypatch.setattr(module, "BUCKET", 3)
    kinds = [torch.float32, torch.float32, torch.float32, torch.float64]
    tensors = [torch.zeros(2, dtype=kind) for kind in kinds]
    assert [len(bucket) for bucket in module._buckets(tensors)] == [2, 1, 1]

    def work():
        for number, tensor in enumerate(tensors):
            tensor.grad = torch.full_like(tensor, number + 10.0 * joined().rank)
        joined().sum_gradients(tensors)
        return [tensor.grad.tolist() for tensor in tensors]

    assert in_processes(2, work) == [[[10.0, 10.0], [12.0, 12.0], [14.0, 14.0], [16.0, 16.0]]] * 2


def test_one_process_speaks_to_nobody(monkeypatch):
    def never(*_, **__):
        raise AssertionError("a process that is alone spoke")

    for name in ("all_reduce", "all_gather_object", "broadcast_object_list", "init_process_group"):
        monkeypatch.setattr(torch.distributed, name, never)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    joined.cache_clear()
    assert joined() is ALONE
    weight, metric = torch.ones(2, requires_grad=True), torch.ones(1)
    weight.grad = torch.ones(2)
    ALONE.sum_gradients([weight])
    assert ALONE.sum(metric) is metric
    assert ALONE.main_first(lambda: 3) == ALONE.from_main(lambda: 3) == 3
    ALONE.wait()
    with ALONE.united():
        optimizer = torch.optim.SGD([weight], lr=1.0)
        Loop().run("w", Steps(1), step_of(lambda batch: weight.sum()), ones, {"w": weight}, optimizer)


def test_a_training_of_one_process_waits_for_no_other_that_a_launcher_started():
    """As of a suite that the main process builds while the others wait for it."""

    def work():
        meeting = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
        os.environ.update(meeting)
        weight = torch.ones(2, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0)
        Loop().run("w", Steps(1), step_of(lambda batch: weight.sum()), ones, {"w": weight}, optimizer)
        assert all(os.environ[name] == value for name, value in meeting.items())
        return weight.tolist()

    assert in_processes(1, work) == [[0.0, 0.0]]


def ones(start: int):
    while True:
        yield torch.ones(1)


@pytest.mark.parametrize("kind", [ConfigError, MissingPart])
def test_an_error_in_one_is_raised_by_all_with_its_words(kind):
    def work():
        processes = joined()
        with processes.united():
            if processes.rank == 1:
                raise kind("toy", "wheels") if kind is MissingPart else kind("no such thing")
            processes.sum(torch.ones(1))

    found = in_processes(2, work)
    said = "The family 'toy' has no wheels" if kind is MissingPart else "no such thing"
    assert [(error.kind, said in str(error)) for error in found] == [(kind.__name__, True)] * 2


def test_a_process_that_failed_is_heard_of_while_it_lives():
    """It waits for the other, which waits for it in a sum, until that has failed too."""

    def work():
        processes = joined()
        try:
            with processes.united():
                if processes.rank == 1:
                    raise ConfigError("no such thing")
                processes.sum(torch.ones(1))
        except ConfigError as error:
            # The main process holds the store, so it leaves last.
            if processes.rank == 1:
                processes.store.wait(["heard"])
                processes.store.set("left", "1")
            else:
                processes.store.set("heard", "1")
                processes.store.wait(["left"])
            return str(error)

    assert in_processes(2, work) == ["no such thing"] * 2


def test_an_error_is_kept_where_the_main_process_and_its_store_have_gone():
    """Both fail by themselves, as of one bad recipe, and the main one is gone before the other can say so."""

    def work():
        processes = joined()
        processes.wait()
        if processes.is_main:
            os._exit(0)
        with suppress(RuntimeError):
            while True:
                processes.store.set("still", "there")
        with processes.united():
            raise ConfigError("no such thing")

    main, other = in_processes(2, work)
    assert main is None
    assert (other.kind, str(other)) == ("ConfigError", "no such thing")


def test_a_bug_in_one_ends_all_with_its_traceback():
    def work():
        processes = joined()
        with processes.united():
            if processes.rank == 1:
                return [][0]
            return processes.gather(0)

    main, other = in_processes(2, work)
    assert (main.kind, other.kind) == ("RuntimeError", "IndexError")
    assert "in process 1" in str(main)
    assert "IndexError: list index out of range" in str(main)


def test_a_process_that_is_killed_is_missed(monkeypatch):
    monkeypatch.setattr(module, "LAST_WORDS", module.timedelta(milliseconds=100))

    def work():
        processes = joined()
        processes.wait()
        with processes.united():
            if processes.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            processes.wait()

    main, other = in_processes(2, work)
    assert other is None
    assert main.kind == FusionBenchError.__name__
    assert "A process of this run was lost" in str(main)


def test_processes_that_do_not_meet_are_told_where_they_looked(monkeypatch):
    monkeypatch.setattr(module, "MEETING", module.timedelta(milliseconds=200))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    joined.cache_clear()
    with pytest.raises(ConfigError, match=r"do not meet \(RANK=1, WORLD_SIZE=2, .*MASTER_PORT=1\).*torchrun"):
        joined()
    joined.cache_clear()


def numbers(start: int):
    """Four numbers a batch."""
    position = start
    while True:
        yield {"x": torch.arange(4.0) + 4 * position}
        position += 1


def descended(folder: Path | None, count: int, **course) -> tuple[Tensor, list[Point]]:
    """The weight after steps along the mean of a batch, and the curve."""
    processes = joined()
    weight = torch.zeros(1, requires_grad=True)

    def loss(batch):
        part, share = processes.part_of(batch)
        return share * (weight * part["x"]).mean()

    loop = Loop(folder, log_every=1, checkpoint_every=1, processes=processes)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    outcome = loop.run("w", Steps(count, **course), step_of(loss), numbers, {"w": weight}, optimizer)
    return weight.detach(), outcome.curve


def test_two_processes_descend_the_mean_of_the_whole_batch(tmp_path):
    found = in_processes(2, lambda: descended(tmp_path, 3))
    for weight, curve in found:
        # The means are 1.5, 5.5 and 9.5; the loss is the weight before the step times the mean.
        assert weight.item() == -16.5
        assert [point.metrics["loss"] for point in curve] == [0.0, -1.5 * 5.5, -7.0 * 9.5]
    assert read_curve(tmp_path / "w") == found[0][1]


def test_accumulated_gradients_are_summed_once_and_then_clipped():
    # The mean of 1.5 and 5.5 is 3.5, which is clipped to 2.
    plain = in_processes(2, lambda: descended(None, 1, accumulate=2)[0].item())
    assert plain == [pytest.approx(-3.5)] * 2
    clipped = in_processes(2, lambda: descended(None, 1, accumulate=2, clip=2.0)[0].item())
    assert clipped == [pytest.approx(-2.0, rel=1e-5)] * 2


def test_a_training_goes_on_with_another_number_of_processes(tmp_path):
    """Stopped after two of four steps, as a killed one is."""

    def two_of_four():
        processes = joined()
        weight = torch.zeros(1, requires_grad=True)

        def loss(batch):
            if batch["x"][0] >= 8:
                raise KeyboardInterrupt
            part, share = processes.part_of(batch)
            return share * (weight * part["x"]).mean()

        loop = Loop(tmp_path, log_every=1, checkpoint_every=1, processes=processes)
        loop.run("w", Steps(4), step_of(loss), numbers, {"w": weight}, torch.optim.SGD([weight], lr=1.0))

    stopped = in_processes(3, two_of_four)
    assert [error.kind for error in stopped] == ["Interrupted"] * 3
    assert all("checkpoint of step 2" in str(error) for error in stopped)
    (alone,) = in_processes(1, lambda: descended(tmp_path, 4))
    assert alone[0].item() == -(1.5 + 5.5 + 9.5 + 13.5)
    assert [point.step for point in alone[1]] == [1, 2, 3, 4]


def test_processes_draw_numbers_of_their_own_which_depend_on_the_step_alone():
    def drawn(count: int) -> list[float]:
        processes, seen = joined(), []
        weight = torch.zeros(1, requires_grad=True)

        def loss(batch):
            seen.append(torch.rand(1).item())
            return weight.sum()

        optimizer = torch.optim.SGD([weight], lr=1.0)
        Loop(processes=processes).run("w", Steps(count, seed=3), step_of(loss), ones, {"w": weight}, optimizer)
        return seen

    (alone,) = in_processes(1, lambda: drawn(3))
    two = in_processes(2, lambda: drawn(3))
    three = in_processes(3, lambda: drawn(2))
    assert two[0] == alone
    assert two[1][:2] == three[1]
    assert len({*two[0], *two[1], *three[2]}) == 8


def test_failures_cross_the_pipe():
    assert isinstance(in_processes(1, lambda: 1 / 0)[0], FailedThere)
