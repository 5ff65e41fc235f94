"""PEFT adapters as models: LoRA and (IA)³, computed a few rows at a time as they are read. No torch here."""

from fusionbench.weights.adapters.dense import AdaptedSource
from fusionbench.weights.adapters.extraction import Extracted, extract_lora
from fusionbench.weights.adapters.matching import PREFIX
from fusionbench.weights.adapters.opening import Space, is_adapter, open_adapter, open_adapter_tensors, open_experts
from fusionbench.weights.adapters.own_space import AdapterBase

__all__ = [
    "PREFIX",
    "AdaptedSource",
    "AdapterBase",
    "Extracted",
    "Space",
    "extract_lora",
    "is_adapter",
    "open_adapter",
    "open_adapter_tensors",
    "open_experts",
]
