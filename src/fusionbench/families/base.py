"""What the toolkit may ask of an architecture, and nothing else: one class an architecture, none a method."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from fusionbench.families.image_processor import ImageProcessor
from fusionbench.families.text_codec import TextCodec
from fusionbench.families.tokens import TokenProcessor
from fusionbench.weights.headers import Source, TensorSpec

Batch = dict[str, Any]
"""What a family's `collate` made: tensors by name, the first dimension an example each. Labels, where there are any,
are under "labels"; a batch drawn without labels has no such key."""
Backbone = Callable[..., Any]
"""A module of the family, or any callable with its signature."""


class LinearSite(NamedTuple):
    """A linear map inside a module; its weight is `(out, in)`, or `(in, out)` where not `inputs_last` (as in GPT-2)."""

    name: str
    module: nn.Module
    inputs_last: bool = True


class MlpParts(NamedTuple):
    """Names of the linear maps of an MLP, relative to it: `gate` is None where the MLP has none."""

    up: str
    down: str
    gate: str | None = None


class Permutation(NamedTuple):
    """Units that may stand in any order without a change of what the model computes.

    Attributes:
        name: of the group of axes that go together.
        units: how many there are; an axis that is longer holds a block of `length / units` entries a unit.
        site: module whose input carries the units on its last axis; of convolutions and batch norms on axis 1.
        produced: `(tensor, axis)` of all that makes the units: rows of a linear map, its bias, a normalisation.
        read: `(tensor, axis)` of all that reads them: columns of the next linear map.
        runs: how many rows of all units a tensor's axis holds one after the other, where that is more than one.
    """

    name: str
    units: int
    site: str
    produced: tuple[tuple[str, int], ...]
    read: tuple[tuple[str, int], ...]
    runs: Mapping[str, int] = MappingProxyType({})


@runtime_checkable
class Family(Protocol):
    """An architecture: how it runs, how examples become its inputs, and what is fused of it.

    Attributes:
        name: in recipes and reports.
        version: raised when an output changes.
        tower: prefix of the tensors that are fused, "" for all.
        model_types: values of `model_type` in `config.json` that it serves.
    """

    name: str
    version: int
    tower: str
    model_types: tuple[str, ...]

    def matches(self, config: Mapping[str, Any]) -> bool:
        """Tell whether a checkpoint's `config.json` describes a model of this family."""
        ...

    def skeleton(self, config: Mapping[str, Any]) -> nn.Module:
        """Return the module of `config`, in eval mode, its parameters on the meta device and its buffers real."""
        ...

    def names(self, specs: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return, for each canonical (file) name, the name of the same tensor in `skeleton`'s state dict."""
        ...

    def collate(self, examples: Sequence[Mapping[str, Any]], processor: Any = None) -> Batch:
        """Return examples as one batch of the backbone's inputs.

        Args:
            examples: as they were prepared, by column; a "label" becomes an entry of "labels".
            processor: what the family read from the base's folder; None takes the architecture's usual constants.
        """
        ...

    def features(self, backbone: Backbone, batch: Batch) -> Tensor:
        """Run the backbone; return what a task's head reads: `(examples, width)` or `(examples, ..., width)`."""
        ...


@runtime_checkable
class HasTokens(Protocol):
    """A family whose inputs are tokens, some of which are padding."""

    def token_mask(self, batch: Batch) -> Tensor | None:
        """Return `(examples, tokens)`, true where a token is real; None where all are."""
        ...


@runtime_checkable
class HasImages(Protocol):
    """A family whose inputs are images."""

    def processor(self, source: Source) -> ImageProcessor:
        """Return how an image becomes the model's input, as the checkpoint's folder says."""
        ...


@runtime_checkable
class HasTextInput(Protocol):
    """A family whose inputs are texts, or pairs of texts."""

    def token_processor(self, source: Source, length: int | None = None) -> TokenProcessor:
        """Return how a text becomes the model's input, as the checkpoint's folder says.

        Args:
            source: the checkpoint.
            length: most tokens of an example; None takes what is usual for the family.

        Raises:
            CheckpointError: where the folder holds no tokenizer.
        """
        ...


@runtime_checkable
class HasText(Protocol):
    """A family that embeds texts in the space of its features, so that class names make a head."""

    def tokenize(self, source: Source, texts: Sequence[str]) -> Batch:
        """Return texts as inputs of `text_features`, with the tokenizer of the checkpoint's folder.

        Raises:
            CheckpointError: where the folder holds no tokenizer that fits the model.
        """
        ...

    def text_features(self, module: nn.Module, tokens: Batch) -> Tensor:
        """Return the texts' embeddings, `(texts, width)`, not normalised."""
        ...

    def logit_scale(self, module: nn.Module) -> float:
        """Return the factor on cosine similarities, `exp(logit_scale)`."""
        ...


@runtime_checkable
class HasTextToText(Protocol):
    """A family that reads a text and writes another."""

    def text_codec(self, source: Source) -> TextCodec:
        """Return how texts become the model's tokens and back, as the checkpoint's folder and configuration say.

        Raises:
            CheckpointError: where the folder holds no tokenizer.
        """
        ...

    def decode(self, backbone: Backbone, batch: Batch, tokens: int) -> Tensor:
        """Return the most probable token at each position, `(examples, ≤ tokens)`, padded after a text's end."""
        ...


@runtime_checkable
class HasHead(Protocol):
    """A family whose tasks have trained heads: one a task, kept with the task's expert, never fused.

    Attributes:
        head: prefix of the head's tensors in a fine-tuned checkpoint, such as "classifier.".
        bodies: by model type, the prefix of everything else in such a checkpoint, such as "bert."; a bare model's
            checkpoint has its tensors without it.
    """

    head: str
    bodies: Mapping[str, str]

    def head_module(self, config: Mapping[str, Any], outputs: int) -> nn.Module:
        """Return a new head in float32 and train mode, as the architecture initialises it.

        It maps what `features` returns to `(examples, outputs)`; its state's names are what follows the prefix in
        files. It draws from torch's generator, so that a seed set before makes the same head.
        """
        ...

    def head_config(self, config: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        """Return what the `config.json` of a fine-tuned model says besides the base's.

        With it, plain transformers loads the folder, head and all, by the Auto class of the kind of task.

        Args:
            config: the base's.
            labels: names of the classes, in the order of the head's outputs.
        """
        ...


@runtime_checkable
class HasParts(Protocol):
    """A family that names its parts to methods that look inside; absent parts raise MissingPart."""

    def linears(self, module: nn.Module) -> Iterator[LinearSite]:
        """Yield every linear map of the fused part, in order of depth."""
        ...

    def blocks(self, module: nn.Module) -> list[str]:
        """Return the names of the residual blocks of the fused part, in order of depth."""
        ...

    def mlps(self, module: nn.Module) -> list[str]:
        """Return the names of the blocks' MLPs, in order of depth."""
        ...

    def mlp_parts(self, module: nn.Module) -> MlpParts:
        """Return the names of the linear maps inside each MLP."""
        ...

    def width(self, config: Mapping[str, Any]) -> int:
        """Return the width of the features."""
        ...


@runtime_checkable
class HasRouters(Protocol):
    """A family some of whose models choose experts for each token."""

    def routers(self, module: nn.Module) -> list[str]:
        """Return the names of the modules that choose, in order of depth; none where the model is dense.

        Each returns logits `(tokens, experts)`, shares `(tokens, k)` and numbers of the chosen `(tokens, k)`.
        """
        ...


@runtime_checkable
class HasPermutations(Protocol):
    """A family that says which units of its modules may change places, for models of different initialisations."""

    def permutations(self, config: Mapping[str, Any]) -> Sequence[Permutation]:
        """Return the groups of axes that one permutation each moves; tensors have the names of `skeleton`'s state dict.

        Axes that are in no group stay as they are: inputs, outputs, and what is not fused reads or writes.
        """
        ...
