"""Where tensors are worked on: the one reading of `runtime.device`."""

import torch

from fusionbench.errors import ConfigError


def device_named(name: str) -> torch.device:
    """Return the device that a recipe names: "auto" (the first accelerator, else the CPU), cpu, mps, cuda or cuda:N.

    Raises:
        ConfigError: where this machine has no such device.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return found or torch.device("cpu")
    asked = torch.device(name)
    missing = asked.type != "cpu" and (found is None or found.type != asked.type)
    if missing or (asked.type != "cpu" and (asked.index or 0) >= torch.accelerator.device_count()):
        here = "only the CPU" if found is None else f"the CPU and {torch.accelerator.device_count()} × {found.type}"
        raise ConfigError(f"runtime.device={name}: this machine has {here}. Choose another, or auto.")
    return asked
