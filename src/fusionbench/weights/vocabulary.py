"""Models of different tokenizers brought to one vocabulary: whose row each token gets. No torch here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fusionbench.config.vocabulary import TokenRowConfig, VocabularyConfig
from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.weights.headers import Source
from fusionbench.weights.tokens import token_numbers

Numbers = np.ndarray[Any, np.dtype[np.int64]]
ZERO, MODELS, MEAN, PADDING = -1, -2, -3, -4
"""Where a row comes from that is no model's row: nowhere, the mean of the models that have the token, the mean of the
model's own tokens, and, for rows of no token, the mean of all rows that have one."""
SHOWN = 3


@dataclass(frozen=True, slots=True)
class Alignment:
    """Which row of which model each row of the result is.

    Attributes:
        models: names, the base's first where there is one.
        numbers: the result's number of each token.
        rows: of the result's tables.
        own: `(models, rows)`, each model's row of the token, -1 where it has none.
        donor: `(rows,)`, whose row a model gets that lacks the token: an index of `models`, or one of the marks.
        donor_row: `(rows,)`, which row of the donor.
        forced: `(rows,)`, where models that have the token get the donor's row too.
        notes: what a user should know.
    """

    models: tuple[str, ...]
    numbers: Mapping[str, int]
    rows: int
    own: Numbers
    donor: Numbers
    donor_row: Numbers
    forced: np.ndarray[Any, np.dtype[np.bool_]]
    notes: tuple[str, ...]


def vocabulary_size(source: Source) -> int:
    """Return the rows of a model's tables of tokens, as its configuration says.

    Raises:
        CheckpointError: where it does not.
    """
    text = source.config.get("text_config")
    size = source.config.get("vocab_size", text.get("vocab_size") if isinstance(text, Mapping) else None)
    if not isinstance(size, int):
        raise CheckpointError(
            f"{source.label}: its config.json has no vocab_size, so its tables of tokens are unknown."
        )
    return size


def tokens_of(source: Source) -> dict[str, int]:
    """Return the number of each token that has a row, in the order of the numbers.

    Raises:
        CheckpointError: where the folder has no tokenizer whose vocabulary can be read.
    """
    numbers = token_numbers(source.folder) if source.folder is not None else {}
    if not numbers:
        raise CheckpointError(
            f"{source.label} has no tokenizer.json, vocab.json or vocab.txt, so it is not known which token each row "
            "of its embeddings is. Save its tokenizer into its folder, or leave vocabulary out."
        )
    size = vocabulary_size(source)
    return {t: n for t, n in sorted(numbers.items(), key=lambda item: item[1]) if n < size}


def align(models: Mapping[str, Source], config: VocabularyConfig, *, base: str | None) -> Alignment:
    """Return whose row each row of the result is.

    Args:
        models: base and experts by name, the base first where there is one.
        config: the recipe's.
        base: the base's name among `models`; without one, the first model stands for it in union.

    Raises:
        ConfigError: where the recipe names a model or a token that is not there.
        CheckpointError: where a model has no tokenizer.
    """
    held = {name: tokens_of(source) for name, source in models.items()}
    numbers = _numbered(models, held, config)
    names = tuple(models)
    rows = max(numbers.values(), default=-1) + 1
    if config.padding == "keep":
        rows = max(rows, vocabulary_size(next(iter(models.values()))))
    if config.pad_to_multiple_of is not None:
        rows = -(-rows // config.pad_to_multiple_of) * config.pad_to_multiple_of
    own = np.full((len(names), rows), -1, np.int64)
    for index, name in enumerate(names):
        for token, number in numbers.items():
            own[index, number] = held[name].get(token, -1)
    tokens = np.fromiter(numbers.values(), np.int64, len(numbers))
    donor, donor_row = np.full(rows, PADDING, np.int64), np.full(rows, -1, np.int64)
    donor[tokens], donor_row[tokens] = _by_default(own[:, tokens], config, names.index(base) if base else None)
    forced = np.zeros(rows, np.bool_)
    for token, rule in config.tokens.items():
        number = numbers[token]
        forced[number] = rule.force
        if rule.source is not None:
            donor[number], donor_row[number] = _by_rule(token, rule.source, models, held)
    return Alignment(names, numbers, rows, own, donor, donor_row, forced, _notes(held, numbers, config))


def _numbered(
    models: Mapping[str, Source], held: Mapping[str, Mapping[str, int]], config: VocabularyConfig
) -> dict[str, int]:
    """Return the result's number of each token; tokens that the source lacks come after its own."""
    first = next(iter(held))
    source = first if config.source in ("union", "base") else config.source
    if source not in held or (config.source == "base" and first != "base"):
        known = ", ".join(("union", *held))
        raise ConfigError(f"vocabulary.source: there is no model {config.source!r}; there are {known}.")
    folder = models[source].folder
    assert folder is not None
    # Tokens that its tokenizer has and its tables lack keep their numbers, so that they are nobody else's.
    numbers = dict(token_numbers(folder))
    added = [token for tokens in held.values() for token in tokens] if config.source == "union" else []
    free = max(numbers.values(), default=-1) + 1
    for token in dict.fromkeys((*added, *config.tokens)):
        if token not in numbers:
            numbers[token] = free
            free += 1
    return numbers


def _by_default(own: Numbers, config: VocabularyConfig, base: int | None) -> tuple[Numbers, Numbers]:
    """Return donor and row of tokens without a rule of their own, from `(models, tokens)` of each model's rows."""
    has, count = own >= 0, (own >= 0).sum(axis=0)
    marks = {"mean": MEAN, "zero": ZERO}
    donor, row = np.full(own.shape[1], marks.get(config.new, MODELS), np.int64), np.full(own.shape[1], -1, np.int64)
    if config.new == "auto":
        if base is not None:
            donor[has[base]], row[has[base]] = base, own[base, has[base]]
        alone = count == 1
        donor[alone], row[alone] = has[:, alone].argmax(axis=0), own[:, alone].max(axis=0, initial=-1)
    if config.new != "mean":
        donor[count == 0] = ZERO
    return donor, row


def _by_rule(
    token: str, rule: str | TokenRowConfig, models: Mapping[str, Source], held: Mapping[str, Mapping[str, int]]
) -> tuple[int, int]:
    """Return donor and row of one token.

    Raises:
        ConfigError: where the model, or its row, is not there.
    """
    if rule == "zero":
        return ZERO, -1
    name = rule.model if isinstance(rule, TokenRowConfig) else rule
    path = f"vocabulary.tokens.{token}"
    if name not in models:
        raise ConfigError(f"{path}: there is no model {name!r}; there are {', '.join(models)}.")
    if isinstance(rule, TokenRowConfig) and rule.id is not None:
        row, called = rule.id, f"row {rule.id}"
    else:
        wanted = str(rule.token) if isinstance(rule, TokenRowConfig) else token
        row, called = held[name].get(wanted, -1), f"token {wanted!r}"
    if not 0 <= row < vocabulary_size(models[name]):
        raise ConfigError(f"{path}: {name} has no {called}.")
    return list(models).index(name), row


def _notes(
    held: Mapping[str, Mapping[str, int]], numbers: Mapping[str, int], config: VocabularyConfig
) -> tuple[str, ...]:
    notes = [f"vocabulary: {config.source}, {len(numbers):,} tokens"]
    for name, tokens in held.items():
        lacking = [token for token in numbers if token not in tokens]
        dropped = [token for token in tokens if token not in numbers]
        for verb, these in (("lacks", lacking), ("has besides", dropped)):
            if these:
                notes.append(f"vocabulary: {name} {verb} {len(these):,} of these tokens, such as {_shown(these)}")
    return tuple(notes)


def _shown(tokens: Sequence[str]) -> str:
    return ", ".join(map(repr, tokens[:SHOWN]))
