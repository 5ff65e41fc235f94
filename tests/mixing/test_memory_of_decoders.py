"""A mixture that routes whole inputs reads them anew at every token; with a memory it would see the last alone."""

from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fusionbench.families.causal_lm import CausalLm
from fusionbench.mixing.mixed import MixedModel


def test_a_mixture_of_decoders_gets_no_memory_once_something_is_written() -> None:
    seen: list[set[str]] = []

    def bind(module: nn.Module) -> Any:
        def predict(batch: dict[str, Any]) -> Tensor:
            seen.append(set(batch))
            return batch["input_ids"]

        return predict

    model = object.__new__(MixedModel)
    vars(model).update(_family=CausalLm(), _device="cpu", module=nn.Linear(1, 1))
    task: Any = SimpleNamespace(name="sums", family=CausalLm(), bind=bind)
    asked = {"input_ids": torch.ones(2, 3).long(), "attention_mask": torch.ones(2, 3).long()}
    predict = model.for_task(task)

    for length in (1, 2):
        written = torch.zeros(2, length).long()
        predict({**asked, "decoder_input_ids": written, "memory": WeakKeyDictionary()})

    # At the first token the whole question is read in any case.
    assert ["memory" in keys for keys in seen] == [True, False]
