"""Merge state dicts or live modules from Python; nothing is written unless you save it.

Run: python examples/merge_your_own.py
"""

import torch

import fusionbench
from fusionbench.methods.ties import ties


def main() -> None:
    base = torch.nn.Linear(4, 2)
    experts = {"math": torch.nn.Linear(4, 2), "code": torch.nn.Linear(4, 2)}
    with torch.no_grad():
        for expert in experts.values():
            for own, shared in zip(expert.parameters(), base.parameters(), strict=True):
                own.copy_(shared + 0.1 * torch.randn_like(shared))
    fused = fusionbench.fuse("task_arithmetic", {"base": base, **experts}, scale=0.5)
    print("weights of the merged model:", {name: tuple(tensor.shape) for name, tensor in fused.weights.items()})
    # Every method is a plain function of tensors as well.
    merged = ties(base.weight, [expert.weight for expert in experts.values()], density=0.5, scale=1.0)
    print("TIES of one tensor moved it by", float((merged - base.weight).detach().norm()))


if __name__ == "__main__":
    main()
