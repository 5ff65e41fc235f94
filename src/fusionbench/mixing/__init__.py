"""Fused models: what each kind of method gives, and the modules that run what mixing methods wrote."""

from fusionbench.mixing.fused import Fused, FusedModule, FusedWeights, Measured, Skipped
from fusionbench.mixing.per_task import PerTask

__all__ = ["Fused", "FusedModule", "FusedWeights", "Measured", "PerTask", "Skipped"]
