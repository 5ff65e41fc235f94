import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from fusionbench.errors import CheckpointError, ConfigError, Interrupted, NotFinite
from fusionbench.training import Loop, Point, Steps, read_curve, step_of, tensors_of


class Killed(Exception):
    """Stands for a process that ends at once."""


def number_batches(start: int) -> Iterator[Tensor]:
    """A batch of eight numbers a position, each depending on its position only."""
    position = start
    while True:
        yield torch.randn(8, 4, generator=torch.Generator().manual_seed(position))
        position += 1


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 1))


def train(module: nn.Module, loop: Loop, steps: Steps, kill_at: int | None = None, error: type[BaseException] = Killed):
    calls = 0

    def loss(batch: Tensor) -> Tensor:
        nonlocal calls
        if calls == kill_at:
            raise error
        calls += 1
        return (module(batch) - batch.sum(1, keepdim=True)).square().mean()

    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    return loop.run("net", steps, step_of(loss), number_batches, tensors_of(module), optimizer)


def plain_step(weight: Tensor):
    """The loss weight · batch, whose gradient is the batch."""
    return step_of(lambda batch: (weight * batch).sum())


def ones(start: int) -> Iterator[Tensor]:
    while True:
        yield torch.ones(1)


def test_plain_descent_subtracts_the_rates_times_the_gradients():
    weight = torch.tensor([10.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    outcome = Loop().run("w", Steps(4, "linear"), plain_step(weight), ones, {"w": weight}, optimizer)
    # rates 1, .75, .5, .25 times a gradient of 1
    assert weight.item() == 7.5
    assert outcome.steps == 4


def test_accumulated_batches_are_averaged_and_counted_as_one_step():
    weight = torch.tensor([10.0], requires_grad=True)

    def positions(start: int) -> Iterator[Tensor]:
        yield from (torch.tensor([float(n)]) for n in range(start, 100))

    optimizer = torch.optim.SGD([weight], lr=1.0)
    outcome = Loop(log_every=1).run(
        "w", Steps(2, accumulate=2), plain_step(weight), positions, {"w": weight}, optimizer
    )
    # gradients (0 + 1) / 2 and (2 + 3) / 2; losses 10·(0 + 1)/2 and 9.5·(2 + 3)/2
    assert weight.item() == 7.0
    assert outcome.curve == [Point(1, {"loss": 5.0}), Point(2, {"loss": 23.75})]


def test_the_norm_of_all_gradients_together_is_clipped():
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=1.0)
    step = step_of(lambda batch: (weights * torch.tensor([3.0, 4.0])).sum())
    Loop().run("w", Steps(1, clip=1.0), step, ones, {"w": weights}, optimizer)
    torch.testing.assert_close(weights.detach(), torch.tensor([-0.6, -0.8]))


def test_a_step_may_set_gradients_by_hand_and_keep_tensors_of_its_own(tmp_path):
    weight = torch.tensor([0.0], requires_grad=True)

    def step(state, batch):
        state.extra["seen"] = state.extra.get("seen", torch.zeros(1)) + batch
        weight.grad = -state.extra["seen"]
        return {"seen": state.extra["seen"].sum()}

    def run(count: int):
        optimizer = torch.optim.SGD([weight], lr=1.0)
        loop = Loop(tmp_path, checkpoint_every=1, log_every=1)
        return loop.run(
            "hand", Steps(4), step if count == 4 else killed_after(step, count), ones, {"w": weight}, optimizer
        )

    with pytest.raises(Killed):
        run(2)
    outcome = run(4)
    # 1 + 2 + 3 + 4, and the count went on after the break
    assert weight.item() == 10.0
    assert [point.metrics["seen"] for point in outcome.curve] == [1.0, 2.0, 3.0, 4.0]


def killed_after(step, count: int):
    def dying(state, batch):
        if state.done == count:
            raise Killed
        return step(state, batch)

    return dying


@pytest.mark.parametrize("kill_at", [3, 7, 8, 13])
def test_a_killed_and_resumed_run_has_the_bits_of_an_unbroken_one(tmp_path, kill_at):
    steps = Steps(8, "cosine", warmup=2, floor=0.1, accumulate=2, clip=1.0, seed=3)
    whole, broken = network(), network()
    unbroken = train(whole, Loop(tmp_path / "a", checkpoint_every=2, log_every=1), steps)
    loop = Loop(tmp_path / "b", checkpoint_every=2, log_every=1)
    with pytest.raises(Killed):
        train(broken, loop, steps, kill_at)
    resumed_module = network()
    resumed = train(resumed_module, loop, steps)
    assert resumed == unbroken
    assert (tmp_path / "b/net/curve.jsonl").read_bytes() == (tmp_path / "a/net/curve.jsonl").read_bytes()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed_module.state_dict()[name], tensor), name


def test_dropout_depends_on_the_seed_and_the_callers_generator_is_left_alone():
    before = torch.get_rng_state()
    first, second = network(), network()
    train(first, Loop(), Steps(2, seed=0))
    train(second, Loop(), Steps(2, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0].weight, second[0].weight)


def test_a_finished_run_is_not_run_again(tmp_path):
    steps, loop = Steps(3), Loop(tmp_path, checkpoint_every=2)
    module = network()
    train(module, loop, steps)
    again = network()
    train(again, loop, steps, kill_at=0)
    assert torch.equal(again[0].weight, module[0].weight)


def test_a_checkpoint_of_other_settings_is_refused_by_their_names(tmp_path):
    loop = Loop(tmp_path, checkpoint_every=1)
    train(network(), loop, Steps(2))
    with pytest.raises(ConfigError, match=r"checkpoint.pt.*count was 2, is 3.*remove it"):
        train(network(), loop, Steps(3))


def test_a_damaged_checkpoint_is_named(tmp_path):
    loop = Loop(tmp_path, checkpoint_every=1)
    train(network(), loop, Steps(2))
    (tmp_path / "net/checkpoint.pt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"checkpoint.pt cannot be read.*Remove it"):
        train(network(), loop, Steps(2))


def test_a_checkpoint_of_another_model_is_refused_by_the_tensor(tmp_path):
    loop = Loop(tmp_path, checkpoint_every=1)
    train(network(), loop, Steps(2))
    with pytest.raises(CheckpointError, match=r"0.weight is \(6, 4\) in the checkpoint, \(7, 4\) in the model"):
        train(nn.Sequential(nn.Linear(4, 7), nn.Linear(7, 1)), loop, Steps(2))


def test_a_writer_that_dies_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    loop = Loop(tmp_path, checkpoint_every=1)
    steps = Steps(2)
    with pytest.raises(Killed):
        train(network(), loop, steps, kill_at=1)
    before = (tmp_path / "net/checkpoint.pt").read_bytes()

    def torn(content, file):
        file.write(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(Killed):
        train(network(), loop, steps)
    assert (tmp_path / "net/checkpoint.pt").read_bytes() == before


def test_control_c_keeps_the_checkpoint_and_says_how_to_go_on(tmp_path):
    loop = Loop(tmp_path, checkpoint_every=2)
    module = network()
    with pytest.raises(Interrupted, match=r"net was stopped after step 5 of 9.*step 4 is in .*net.*goes on from there"):
        train(module, loop, Steps(9), kill_at=5, error=KeyboardInterrupt)
    with pytest.raises(Interrupted, match="no checkpoint yet"):
        train(module, Loop(), Steps(9), kill_at=0, error=KeyboardInterrupt)


def test_the_curve_has_a_point_every_few_steps_and_one_at_the_end(tmp_path):
    outcome = train(network(), Loop(tmp_path, log_every=3), Steps(8))
    assert [point.step for point in outcome.curve] == [3, 6, 8]
    lines = [json.loads(line) for line in (tmp_path / "net/curve.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6, 8]
    assert lines[0]["metrics"] == outcome.curve[0].metrics
    assert read_curve(tmp_path / "net") == outcome.curve


def test_a_line_of_the_curve_that_was_cut_off_is_left_out(tmp_path):
    (tmp_path / "curve.jsonl").write_text('{"step": 1, "metrics": {"loss": 2.0}}\n{"step": 2, "met')
    assert read_curve(tmp_path) == [Point(1, {"loss": 2.0})]


@pytest.mark.parametrize(("better", "kept"), [("higher", 2), ("lower", 4)])
def test_the_tensors_of_the_best_validation_are_put_back(tmp_path, better, kept):
    weight = torch.tensor([0.0], requires_grad=True)
    scores = {0: 0.0, 1: 0.0, 2: 0.9, 3: 0.5, 4: 0.1, 5: 0.3}
    optimizer = torch.optim.SGD([weight], lr=1.0)
    outcome = Loop().run(
        "w", Steps(5, validate_every=1, keep="best", better=better), plain_step(weight), ones, {"w": weight}, optimizer,
        validate=lambda: {"accuracy": scores[round(-weight.item())] if weight.item() <= -2 else 0.5, "other": -1.0},
    )  # fmt: skip
    # after step n the weight is -n
    assert weight.item() == -kept
    assert outcome.best == Point(kept, {"accuracy": scores[kept], "other": -1.0})
    assert outcome.curve[-1].metrics == {"loss": -4.0, "accuracy": 0.3, "other": -1.0}


def test_the_best_tensors_survive_a_break(tmp_path):
    def run(kill_at: int | None):
        weight = torch.tensor([0.0], requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0)
        step = plain_step(weight) if kill_at is None else killed_after(plain_step(weight), kill_at)
        Loop(tmp_path, checkpoint_every=1).run(
            "w", Steps(4, validate_every=1, keep="best"), step, ones, {"w": weight}, optimizer,
            validate=lambda: {"accuracy": -abs(weight.item() + 2)},
        )  # fmt: skip
        return weight.item()

    with pytest.raises(Killed):
        run(3)
    assert run(None) == -2.0


def test_the_stop_rule_sees_the_curve_and_ends_the_run(tmp_path):
    weight = torch.tensor([10.0], requires_grad=True)

    def run():
        optimizer = torch.optim.SGD([weight], lr=1.0)
        loop = Loop(tmp_path, log_every=1, checkpoint_every=5)
        return loop.run("w", Steps(9), plain_step(weight), ones, {"w": weight}, optimizer,
                        stop=lambda curve: curve[-1].metrics["loss"] <= 8)  # fmt: skip

    # losses 10, 9, 8
    assert run().steps == 3
    # an ended run is not gone on with
    assert run().steps == 3


def test_a_loss_that_is_not_a_number_is_an_error_with_a_remedy():
    weight = torch.tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    with pytest.raises(NotFinite, match=r"w: .*loss.*nan.*after step 1.*learning rate"):
        Loop(log_every=1).run(
            "w", Steps(3), step_of(lambda batch: (weight / 0 * 0).sum()), ones, {"w": weight}, optimizer
        )


def test_progress_is_told_after_each_step():
    told = []
    weight = torch.tensor([0.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    Loop(progress=lambda *news: told.append(news)).run(
        "w", Steps(2), plain_step(weight), ones, {"w": weight}, optimizer
    )
    assert told == [("w", 1, 2), ("w", 2, 2)]


def test_bfloat16_is_used_in_the_forward_pass_only_and_one_loop_does_not_set_the_next_ones_precision():
    weight = torch.ones(2, 2, requires_grad=True)
    kinds = []

    def loss(batch: Tensor) -> Tensor:
        product = weight @ weight
        kinds.append(product.dtype)
        return product.float().sum()

    for precision in ("bf16", "no"):
        optimizer = torch.optim.SGD([weight], lr=0.1)
        Loop(precision=precision).run("w", Steps(1), step_of(loss), ones, {"w": weight}, optimizer)
    assert kinds == [torch.bfloat16, torch.float32]
    assert weight.dtype == torch.float32


def test_frozen_parameters_are_not_kept_but_buffers_are():
    module = network()
    module[0].requires_grad_(False)
    assert set(tensors_of(module)) == {
        "1.weight", "1.bias", "3.weight", "3.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    }  # fmt: skip


def test_no_steps_change_nothing():
    weight = torch.tensor([1.0], requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    outcome = Loop().run("w", Steps(0), plain_step(weight), ones, {"w": weight}, optimizer)
    assert (weight.item(), outcome.steps, outcome.curve) == (1.0, 0, [])
