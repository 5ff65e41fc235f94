"""Find the tensors of a base that an adapter is meant for; everything that does not fit is found at once."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusionbench.errors import CheckpointError, IncompatibleModels
from fusionbench.registry import families, family_serving
from fusionbench.weights.adapters.configuration import FIX, AdapterConfig
from fusionbench.weights.adapters.edits import Change, LowRank, Scaled, Shifted
from fusionbench.weights.checks import is_tied
from fusionbench.weights.headers import Source, TensorSpec
from fusionbench.weights.roles import inputs_last, role

PREFIX = "base_model.model."
SHOWN = 20
_PART = re.compile(
    r"^(?P<module>.+)\.(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector|ia3_l)(?P<tail>\.weight)?$"
)
_STRANGE = re.compile(r"(^|\.)(lora_|ia3_|token_adapter\b|original_module\b)")
_WRAPPER = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
_TIED = re.compile(r"(^|\.)(embed_tokens|wte|shared|word_embeddings|lm_head|embed_out)\.weight$")
Parts = Mapping[str, TensorSpec]
"""An adapted module's tensors in the adapter, by part."""


@dataclass(slots=True)
class Matched:
    """By the base's names: what is changed, and what the adapter holds whole (its own name of it)."""

    changes: dict[str, Change] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def match(label: str, base: Source, adapter: Source, config: AdapterConfig) -> Matched:
    """Return what an adapter does to each tensor of a base.

    Raises:
        IncompatibleModels: with every target that the base lacks, and every shape, rank or kind that does not fit.
        CheckpointError: where the adapter holds tensors of a variant that is not read.
    """
    modules, whole = _parse(label, adapter)
    rename = _names_in(base, [f"{module}.weight" for module in modules] or list(whole))
    found = Matched(replaced={rename(name): own for name, own in whole.items()})
    for name, own in found.replaced.items():
        found.problems += _misfit(name, adapter.specs[own], base)
    builder = _Builder(base, config, found)
    for module, parts in modules.items():
        builder.add(module, rename(f"{module}.weight"), parts)
    found.problems += _untied(base, adapter, found)
    if found.problems:
        raise IncompatibleModels(_message(label, base, config, found.problems))
    return found


def _message(label: str, base: Source, config: AdapterConfig, problems: Sequence[str]) -> str:
    shown = [f"  {problem}" for problem in problems[:SHOWN]]
    more = [f"  … and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    head = f"The adapter {label} does not fit {base.label} ({len(problems)} difference{'s' * (len(problems) != 1)}):"
    own = f", by its own word {config.trained_on}" if config.trained_on else ""
    return "\n".join([head, *shown, *more, f"An adapter fits the model it was trained on{own}; name that one as base."])


def _parse(label: str, adapter: Source) -> tuple[dict[str, dict[str, TensorSpec]], dict[str, str]]:
    """Return the parts of each adapted module, and by the model's names what is held whole."""
    modules: dict[str, dict[str, TensorSpec]] = {}
    whole: dict[str, str] = {}
    strange = []
    for name, spec in adapter.specs.items():
        inner = name.removeprefix(PREFIX)
        part = _PART.match(inner)
        if part:
            modules.setdefault(part["module"], {})[part["part"]] = spec
        elif _STRANGE.search(inner):
            strange.append(name)
        else:
            whole[_WRAPPER.sub("", inner)] = name
    if strange:
        raise CheckpointError(f"{label} holds tensors that are not read here: {', '.join(strange[:5])}. {FIX}")
    return modules, whole


def _tower(base: Source) -> str:
    """Return the prefix of what the base's family fuses; "" for all, or where none serves it."""
    kind = base.config.get("model_type")
    served = (families[name].data or {} for name in families) if kind else ()
    return next((str(data.get("tower", "")) for data in served if kind in data.get("model_types", ())), "")


def _names_in(base: Source, wanted: Sequence[str]) -> Callable[[str], str]:
    """Return a function from the adapter's names to the base's; the adapter may have those of transformers 5's modules.

    Files keep older names than the modules of some architectures have (ViT, DINOv2, Mixtral): these the family knows.
    """
    tower, entry = _tower(base), family_serving(base.config)
    plain = _renaming(wanted, base.specs, tower)
    if entry is None or all(plain(name) in base.specs for name in wanted):
        return plain
    # Most adapters never come here, so that the family, and torch with it, is seldom imported.
    inside = {own: name for name, own in entry.load()().names(base.specs).items()}
    bare = _renaming(wanted, inside, tower)
    return (lambda name: inside.get(bare(name), name)) if all(bare(name) in inside for name in wanted) else plain


def _renaming(wanted: Sequence[str], specs: Mapping[str, Any], tower: str) -> Callable[[str], str]:
    """Return a function from the adapter's names to the base's, which may have one prefix more or less.

    Where several parts of the base have such names, as both towers of a CLIP, the adapter is of the one that is fused.
    """
    if not wanted or any(name in specs for name in wanted):
        return lambda name: name
    first = wanted[0]
    longer = {name.removesuffix(first) for name in specs if name.endswith("." + first)}
    fitting = [prefix for prefix in longer if all(prefix + name in specs for name in wanted)]
    fitting = [prefix for prefix in fitting if prefix == tower] or fitting
    if len(fitting) == 1:
        return lambda name: fitting[0] + name if fitting[0] + name in specs else name
    words = first.split(".")
    for count in range(1, len(words)):
        prefix = ".".join(words[:count]) + "."
        if all(name.startswith(prefix) and name.removeprefix(prefix) in specs for name in wanted):
            return lambda name: name.removeprefix(prefix)
    return lambda name: name


def _misfit(name: str, own: TensorSpec, base: Source) -> list[str]:
    """Return a line where a tensor that the adapter holds whole is unlike the base's; what the base lacks is a head."""
    spec = base.specs.get(name)
    if spec is None or (spec.shape == own.shape and spec.is_float == own.is_float):
        return []
    differ = f"{name} is {own.dtype} {list(own.shape)} in the adapter, {spec.dtype} {list(spec.shape)} in the base"
    table = role(spec) in ("embedding", "head") and len(spec.shape) == 2 and own.shape[1:] == spec.shape[1:]
    tokens = f". It was trained with other tokens. {FIX} Then bring the models together with vocabulary=base or union"
    return [differ + (tokens if table else "")]


class _Builder:
    """Turns the parts of modules into changes of the base's tensors."""

    def __init__(self, base: Source, config: AdapterConfig, found: Matched) -> None:
        self.base = base
        self.config = config
        self.found = found

    def add(self, module: str, target: str, parts: Parts) -> None:
        """Add the changes of one module, or what is wrong with it."""
        spec = self.base.specs.get(target)
        if spec is None:
            self.found.problems.append(f"{target} is adapted, the base has no such tensor")
        elif not spec.is_float:
            self.found.problems.append(
                f"{target} holds {spec.dtype} in the base, which is quantised: name the base in full precision"
            )
        elif "ia3_l" in parts:
            self._scale(target, spec, parts["ia3_l"])
        else:
            self._add_low_rank(module, target, spec, parts)

    def _add_low_rank(self, module: str, target: str, spec: TensorSpec, parts: Parts) -> None:
        embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
        a = parts.get("lora_embedding_A" if embedding else "lora_A.weight")
        b = parts.get("lora_embedding_B" if embedding else "lora_B.weight")
        if a is None or b is None or len(a.shape) < 2 or len(b.shape) < 2:
            self.found.problems.append(f"{target} has one of A and B in the adapter, or none: the file is incomplete")
            return
        rank, magnitude = a.shape[0], parts.get("lora_magnitude_vector")
        said = self.config.rank(module)
        if rank != said:
            self.found.problems.append(f"{target} is adapted at rank {rank}, its configuration says {said}")
            return
        swapped = self._swapped(spec, (b.shape[0], *a.shape[1:]), embedding=embedding)
        outputs = b.shape[0]
        if swapped is None or b.shape[1] != rank or any(size != 1 for size in b.shape[2:]):
            self._misshapen(target, spec, f"B {list(b.shape)} · A {list(a.shape)}")
        elif self.config.dora and (magnitude is None or magnitude.size != outputs):
            self._misshapen(target, spec, f"a magnitude {list(magnitude.shape) if magnitude else 'that is missing'}")
        else:
            scale = self.config.scale(module, rank)
            name = magnitude.name if magnitude is not None else None
            self.found.changes[target] = LowRank(a.name, b.name, scale, swapped, name)
            self._shift(target, parts.get("lora_B.bias"), scale)

    def _swapped(self, spec: TensorSpec, shape: tuple[int, ...], *, embedding: bool) -> bool | None:
        """Tell whether the base stores `shape` as `(in, out)`; None where it fits neither way."""
        plain, other = spec.shape == shape, len(shape) == 2 and spec.shape == shape[::-1]
        if not plain and not other:
            return None
        if embedding:
            return True if other else None
        return other if plain != other else self._is_conv1d(spec)

    def _is_conv1d(self, spec: TensorSpec) -> bool:
        """Tell whether a matrix whose shape does not say it is `(in, out)`."""
        return self.config.swapped or not inputs_last(spec, self.base.config)

    def _shift(self, target: str, own: TensorSpec | None, scale: float) -> None:
        if own is None:
            return
        bias = target.removesuffix("weight") + "bias"
        spec = self.base.specs.get(bias)
        if spec is None or spec.shape != own.shape:
            self.found.problems.append(f"{bias} is adapted as {list(own.shape)}, the base has no such tensor")
        else:
            self.found.changes[bias] = Shifted(own.name, scale)

    def _scale(self, target: str, spec: TensorSpec, own: TensorSpec) -> None:
        """Add W ⊙ l: `(out, 1)` scales outputs and so the bias, `(1, in)` scales the inputs of a feed-forward layer."""
        if len(spec.shape) != 2 or len(own.shape) != 2 or 1 not in own.shape:
            self._misshapen(target, spec, f"(IA)³ {list(own.shape)}; only those of linear layers are read")
            return
        outputs = own.shape[1] == 1
        plain, other = own.size == spec.shape[0 if outputs else 1], own.size == spec.shape[1 if outputs else 0]
        if not plain and not other:
            self._misshapen(target, spec, f"(IA)³ {list(own.shape)}")
            return
        swapped = other if plain != other else self._is_conv1d(spec)
        self.found.changes[target] = Scaled(own.name, by_row=outputs != swapped)
        bias = target.removesuffix("weight") + "bias"
        if outputs and bias in self.base.specs:
            self.found.changes[bias] = Scaled(own.name, by_row=True)

    def _misshapen(self, target: str, spec: TensorSpec, what: str) -> None:
        self.found.problems.append(f"{target} is {list(spec.shape)} in the base, the adapter is made for {what}")


def is_one_of_two(base: Source, name: str) -> bool:
    """Tell whether a tensor is one of two embeddings that are one in the model."""
    return bool(is_tied(base.config) and _TIED.search(name))


def _untied(base: Source, adapter: Source, found: Matched) -> list[str]:
    """Return a line for each tied embedding that the adapter changes on one side only."""
    words = "is tied to the other embedding in the base, the adapter changes it alone: no tied model is their sum"
    changed = [name for name in found.changes if is_one_of_two(base, name)]
    replaced = [name for name in found.replaced if is_one_of_two(base, name) and name not in found.changes]
    alone = [] if len(replaced) > 1 else [name for name in replaced if not _same(base, adapter, name, found)]
    return [f"{name} {words}. {FIX}" for name in (*changed, *alone)]


def _same(base: Source, adapter: Source, name: str, found: Matched) -> bool:
    """Tell whether what the adapter holds whole is what the base has: PEFT saves embeddings unasked."""
    spec, own = base.specs.get(name), adapter.specs[found.replaced[name]]
    return spec is not None and spec.dtype == own.dtype and base.read(name) == adapter.read(own.name)
