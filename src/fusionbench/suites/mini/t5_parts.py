"""What `mini/t5` is built of: generated texts as JSON lines, and a T5 pretrained on a mixture of them."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fusionbench.suites.images.streams import stream
from fusionbench.suites.load import load_suite
from fusionbench.suites.mini.assembly import Parts
from fusionbench.suites.mini.saving import save_quietly
from fusionbench.suites.mini.t5_mixture import Pretext, all_texts
from fusionbench.suites.mini.t5_recipe import NAME, MiniT5AdapterRecipe, MiniT5Recipe, Network
from fusionbench.suites.mini.t5_words import END, LENGTH, PAD, SENTINELS, make_tokenizer, vocabulary
from fusionbench.suites.mini.text_data import digests, read_records, tasks_in, write_tasks
from fusionbench.suites.registration import Progress
from fusionbench.suites.texts import KINDS, SPLITS, Record, SplitName
from fusionbench.training import Loop
from fusionbench.training.checkpoint import CURVE

TOKENS = 8
"""The most tokens that an answer has, its end included."""


def make_texts(place: Path, recipe: MiniT5Recipe, seed: int, progress: Progress | None) -> None:
    """Write each task's splits as JSON lines."""
    write_tasks(place, recipe.texts, seed, progress)


def read_texts(data: Path, splits: Sequence[SplitName]) -> dict[str, list[Record]]:
    """Return the records of some splits by task."""
    return {name: [one for split in splits for one in read_records(data, name, split)] for name in tasks_in(data)}


def describe(data: Path) -> dict[str, dict[str, Any]]:
    """Return each task as a suite's YAML describes it, with the papers' prompts."""
    return {
        name: {
            "kind": "text_to_text",
            "dataset": f"./data/{name}",
            "metrics": ["accuracy"] if kind.label_names else ["spearman", "accuracy"],
            "options": {"prompt": f"glue/{kind.glue}", "length": LENGTH, "tokens": TOKENS},
        }
        for name, kind in ((name, KINDS[name]) for name in tasks_in(data))
    }


def make_base(place: Path, data: Path, recipe: MiniT5Recipe, seed: int, loop: Loop) -> None:
    """Pretrain a T5 on the tasks' training texts, by span corruption and by questions; see `Mixture`."""
    pieces = vocabulary(all_texts(read_texts(data, SPLITS)))
    tokenizer = make_tokenizer(pieces)
    pretext = Pretext.of(read_texts(data, ("train",)), tokenizer)
    pretrain(place, recipe, seed, loop, pieces, tokenizer, pretext)


def pretrain(
    place: Path,
    recipe: MiniT5Recipe,
    seed: int,
    loop: Loop,
    pieces: Mapping[str, int],
    tokenizer: Any,
    pretext: Pretext,
    bias_rate: float = 1.0,
) -> None:
    """Write a T5 that was pretrained from nothing, and its tokenizer.

    Args:
        place: the base's folder.
        recipe: of the size.
        seed: of weights and batches.
        loop: what trains.
        pieces: numbers of the tokenizer's words.
        tokenizer: of these words.
        pretext: what is read.
        bias_rate: times the learning rate, that of the biases by distance.
    """
    import torch

    from fusionbench.families import family_named
    from fusionbench.training import step_of, tensors_of

    module, family, training = _new_model(recipe.network, len(pieces), seed), family_named("t5"), recipe.pretraining
    optimizer = torch.optim.AdamW(
        _groups(module, training.learning_rate, bias_rate),
        training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )

    def batches(start: int) -> Iterator[dict[str, Any]]:
        position = start
        while True:
            rng = stream(seed, "t5 pretraining", position)
            drawn = pretext.draw(rng, training.batch, recipe.mixture, pieces[SENTINELS[0]])
            yield family.collate(drawn)
            position += 1

    def loss(batch: dict[str, Any]) -> torch.Tensor:
        found: torch.Tensor = module(**batch).loss
        return found

    loop.run("pretraining", training.course(seed), step_of(loss), batches, tensors_of(module), optimizer)
    save_quietly(module, place)
    tokenizer.save_pretrained(place)


def _groups(module: Any, rate: float, bias_rate: float) -> list[dict[str, Any]]:
    """Return all parameters, those that say by distance what is looked at with a learning rate of their own."""
    if bias_rate == 1:
        # The order of parameters decides the last bits of a clipped gradient, and so of what was built before.
        return [{"params": list(module.parameters())}]
    named = dict(module.named_parameters())
    biases = [named.pop(name) for name in list(named) if "relative_attention_bias" in name]
    return [{"params": list(named.values())}, {"params": biases, "lr": rate * bias_rate}]


def _new_model(network: Network, words: int, seed: int) -> Any:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=words,
        d_model=network.width,
        d_kv=network.width // network.heads,
        d_ff=network.feedforward,
        num_layers=network.depth,
        num_heads=network.heads,
        dropout_rate=network.dropout,
        feed_forward_proj="gated-gelu",
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5ForConditionalGeneration(config).train()


def notes(data: Path) -> list[str]:  # noqa: ARG001
    """Say that nobody wrote the texts."""
    return ["The texts of all tasks are generated by code from a small lexicon; they are no GLUE."]


PARTS = Parts(make_texts, describe, make_base, digests, notes, family="t5")


def copy_texts(name: str, place: Path, recipe: MiniT5AdapterRecipe, seed: int, progress: Progress | None) -> None:
    """Copy the texts of the suite `name`, whose base is adapted."""
    built = _built(name, recipe, seed, progress)
    shutil.copytree(built / "data", place, dirs_exist_ok=True)


def copy_base(
    name: str,
    place: Path,
    data: Path,  # noqa: ARG001
    recipe: MiniT5AdapterRecipe,
    seed: int,
    loop: Loop,
) -> None:
    """Copy the base of the suite `name`, which is adapted, with the curve of its pretraining."""
    built = _built(name, recipe, seed, None)
    shutil.copytree(built / "base", place, dirs_exist_ok=True)
    assert loop.folder is not None
    curve = loop.folder / "pretraining" / CURVE
    curve.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(built / "base" / CURVE, curve)


def _built(name: str, recipe: MiniT5AdapterRecipe, seed: int, progress: Progress | None) -> Path:
    """Return the folder of the suite of fully fine-tuned experts, which is built where it is missing."""
    suite = load_suite(name, size=recipe.base_size, seed=seed, progress=progress).suite
    return Path(str(suite.pool.base)).parent


LORA_PARTS = Parts(
    partial(copy_texts, NAME), describe, partial(copy_base, NAME), digests, notes, family="t5", tuning="lora"
)
