"""What `mini/smollm2` is built of: the texts of `mini/causal_lm`, and a language model out of a package."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusionbench.errors import CheckpointError, MissingExtra
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.causal_lm_parts import describe, digests, make_texts, notes
from fusionbench.suites.mini.causal_lm_texts import LANGUAGE
from fusionbench.suites.mini.packaged import package_folder
from fusionbench.suites.mini.saving import quietly, save_quietly
from fusionbench.suites.mini.smollm2_recipe import MiniSmolLm2Recipe

if TYPE_CHECKING:
    from fusionbench.training import Loop

TOKENS = 8
"""Word pieces of an answer and its end; the words of `mini/causal_lm` are whole."""


def describe_pieces(data: Path) -> dict[str, dict[str, Any]]:
    """Return the tasks of `mini/causal_lm`, with answers of as many tokens as word pieces take."""
    found = describe(data)
    written: Mapping[str, Any]
    for task, written in found.items():
        if "tokens" in written["options"]:
            found[task] = {**written, "options": {**written["options"], "tokens": TOKENS}}
    return found


def write_base(place: Path, data: Path, recipe: MiniSmolLm2Recipe, seed: int, loop: "Loop") -> None:  # noqa: ARG001
    """Write the packaged model in Hugging Face form, in bfloat16; nothing is pretrained here.

    Raises:
        MissingExtra: where the package that holds the weights, or the one that reads them, is not installed.
        CheckpointError: where the package does not hold the file.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = package_folder(recipe.package)
    if find_spec("gguf") is None:
        raise MissingExtra(f"The base of the suite, {recipe.file},", "gguf")
    if not (folder / recipe.file).is_file():
        raise CheckpointError(f"{folder} holds no {recipe.file}. Install the version of {recipe.package} that has it.")
    with quietly():
        read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=recipe.file, dtype=torch.float32)
    # What was read of GGUF refuses to be saved, by a key of its configuration.
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    module = LlamaForCausalLM(LlamaConfig(**settings))
    module.load_state_dict(read.state_dict())
    module.tie_weights()
    save_quietly(module.to(torch.bfloat16), place)
    AutoTokenizer.from_pretrained(folder, gguf_file=recipe.file).save_pretrained(place)


PARTS = Parts(
    make_texts, describe_pieces, write_base, digests, notes, family="causal_lm", tuning="lora", unseen=(LANGUAGE,)
)
