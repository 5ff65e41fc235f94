"""Fused tensors as they are stored: in which kind of number, and with what beside them."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from fusionbench.weights.companions import copy_companions
from fusionbench.weights.finite import bad_result
from fusionbench.weights.headers import WORDS, Source, TensorSpec
from fusionbench.weights.tensors import TORCH, TensorSource
from fusionbench.weights.writer import CheckpointWriter


def save_weights(
    folder: Path, specs: Mapping[str, TensorSpec], content: Callable[[str], memoryview], like: Source
) -> None:
    """Write tensors as a folder, with what stands beside the model that they are like.

    Args:
        folder: must not exist; appears when all is on disk.
        specs: the tensors, by name, in the order of the file.
        content: returns the bytes of one.
        like: whose configuration, tokenizer and processor are copied.

    Raises:
        OutputError: where the folder exists, or cannot be written.
    """
    # What was made in memory may be of another form than the model beside whose files it stands.
    changes = like.config if isinstance(like, TensorSource) else {}

    def finish(made: Path) -> None:
        copy_companions(like, made, changes=changes)

    with CheckpointWriter(folder, list(specs.values()), metadata={}, finish=finish) as writer:
        for name in specs:
            writer.write(name, content(name))


def as_wanted(spec: TensorSpec, dtype: str) -> TensorSpec:
    """Return a tensor's form where `output.dtype` is `dtype`: floating-point numbers take it, "base" leaves all."""
    return spec if dtype == "base" or not spec.is_float else spec._replace(dtype=WORDS[dtype])


def rounded(tensor: Tensor, spec: TensorSpec, *, may_be_infinite: bool = False) -> Tensor:
    """Return a tensor in the kind of `spec`.

    Raises:
        NotFinite: where that holds NaN or Inf, other than what was so before in a tensor that `may_be_infinite`.
    """
    result = tensor.to(TORCH[spec.dtype])
    before, after = tensor.isfinite(), result.isfinite()
    if bool((before & ~after).any()) or not (may_be_infinite or bool(after.all())):
        raise bad_result(spec, finite=bool(before.all()))
    return result
