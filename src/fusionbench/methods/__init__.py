"""Methods: pure functions on tensors, one paper a file; registered by `merge_method`, run by the engine."""

from fusionbench.methods._method import merge_method
from fusionbench.methods._random import uniform

__all__ = ["merge_method", "uniform"]
