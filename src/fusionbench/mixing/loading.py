"""Any model that a fusion wrote, as a module: plain ones, and those whose modules were replaced."""

from pathlib import Path

from torch import nn

from fusionbench.families import family_for, load_module
from fusionbench.mixing.fused import Device
from fusionbench.mixing.mixed import open_mixed
from fusionbench.weights.sources import open_source


def load_model(model: str | Path, *, device: Device = "cpu") -> nn.Module:
    """Return a model as a module of its Hugging Face architecture, in eval mode; a language model can `generate`.

    Plain folders are what `from_pretrained` of transformers loads as well; one with `fusion_config.json` (SMILE, WEMoE,
    BitDelta …) only this loads.

    Args:
        model: a folder, a file or a hub id.
        device: where the module lies.

    Raises:
        CheckpointError: where there is no model, or its tensors and its blueprint do not belong together.
        ConfigError: where no family serves its architecture.
    """
    source = open_source(model)
    mixed = open_mixed(source, device=device)
    if mixed is not None:
        return mixed.module
    return load_module(family_for(source.config), source).to(device)
