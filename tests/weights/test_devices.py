"""What a recipe's device is on a machine with and without an accelerator."""

import pytest
import torch

from fusionbench.errors import ConfigError
from fusionbench.weights.devices import device_named


def machine(patch: pytest.MonkeyPatch, kind: str | None, count: int = 0) -> None:
    patch.setattr(torch.accelerator, "current_accelerator", lambda check_available: kind and torch.device(kind))
    patch.setattr(torch.accelerator, "device_count", lambda: count)


def test_without_an_accelerator_there_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, None)
    assert device_named("auto") == device_named("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda: this machine has only the CPU"):
        device_named("cuda")


def test_auto_is_the_accelerator_and_a_number_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, "cuda", 2)
    assert device_named("auto") == torch.device("cuda")
    assert device_named("cpu") == torch.device("cpu")
    assert device_named("cuda:1") == torch.device("cuda:1")
    for name in ("cuda:2", "mps"):
        with pytest.raises(ConfigError, match=f"runtime.device={name}: this machine has the CPU and 2 × cuda"):
            device_named(name)
