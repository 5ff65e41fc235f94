"""One vocabulary for a pool: its models seen through it, its tokenizer's files, its configuration. No torch here."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusionbench.config.vocabulary import VocabularyConfig
from fusionbench.errors import CheckpointError
from fusionbench.weights.headers import Source
from fusionbench.weights.tokens import token_numbers
from fusionbench.weights.vocabulary import Alignment, align
from fusionbench.weights.vocabulary_tables import AlignedSource

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
GENERATION = "generation_config.json"
FILES = (
    TOKENIZER, SETTINGS, TEMPLATE, "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
    "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
"""What a tokenizer may consist of."""


@dataclass(frozen=True, slots=True)
class SharedVocabulary:
    """What the result's tokenizer and configuration are made of.

    Attributes:
        alignment: of the models' rows.
        donor: whose tokenizer is taken.
        reference: whose configuration is taken.
    """

    alignment: Alignment
    donor: Source
    reference: Source

    def config_changes(self) -> dict[str, Any]:
        """Return what the result's `config.json` says otherwise than the reference's: rows, and numbers of tokens."""
        config = self.reference.config
        if "vocab_size" in config:
            return {"vocab_size": self.alignment.rows, **self._renumbered(config)}
        text = dict(config["text_config"])
        return {"text_config": {**text, "vocab_size": self.alignment.rows, **self._renumbered(text)}}

    def write(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder that has the reference's."""
        if self.donor is not self.reference:
            for name in FILES:
                (folder / name).unlink(missing_ok=True)
                if self.donor.folder is not None and (self.donor.folder / name).is_file():
                    shutil.copyfile(self.donor.folder / name, folder / name)
        added = self.added()
        if added:
            _add_tokens(folder, added)
        generation = folder / GENERATION
        if generation.is_file():
            content = json.loads(generation.read_text(encoding="utf-8"))
            _write(generation, {**content, **self._renumbered(content)})

    def added(self) -> dict[str, int]:
        """Return the tokens that the donor's tokenizer lacks."""
        assert self.donor.folder is not None
        known = token_numbers(self.donor.folder)
        return {token: number for token, number in self.alignment.numbers.items() if token not in known}

    def _renumbered(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the keys of a configuration that name tokens by number, in the result's numbers."""
        folder = self.reference.folder
        if self.donor is self.reference or folder is None:
            return {}
        words = {number: token for token, number in token_numbers(folder).items()}

        def moved(number: Any) -> Any:
            return self.alignment.numbers.get(words[number], number) if number in words else number

        return {
            key: [moved(n) for n in value] if isinstance(value, list) else moved(value)
            for key, value in config.items()
            if key.endswith("_token_id") and isinstance(value, int | list)
        }


def share_vocabulary(
    base: Source | None, experts: Mapping[str, Source], config: VocabularyConfig
) -> tuple[Source | None, dict[str, Source], SharedVocabulary]:
    """Return base and experts as they are seen through one vocabulary, and that vocabulary.

    Raises:
        ConfigError: where the recipe names a model or a token that is not there.
        CheckpointError: where a model has no tokenizer, or tokens are to be added to one that is not a tokenizer.json.
        IncompatibleModels: where rows of one model cannot stand in for another's.
    """
    models = {**({"base": base} if base is not None else {}), **experts}
    alignment = align(models, config, base="base" if base is not None else None)
    sources = list(models.values())
    aligned: list[Source] = [AlignedSource(index, sources, alignment) for index in range(len(sources))]
    donor = sources[0] if config.source in ("union", "base") else models[config.source]
    shared = SharedVocabulary(alignment, donor, sources[0])
    if shared.added() and not (donor.folder and (donor.folder / TOKENIZER).is_file()):
        raise CheckpointError(
            f"{donor.label} has no {TOKENIZER}, to which the tokens could be added that it lacks. Save its tokenizer "
            "once with transformers, or choose another vocabulary.source."
        )
    seen = dict(zip(models, aligned, strict=True))
    return (seen.pop("base") if base is not None else None), seen, shared


def chat_template(sources: Sequence[Source], wanted: str | None) -> str | None:
    """Return a chat template: `wanted` itself, or for "auto" the one that most models have, the first of equals."""
    if wanted != "auto":
        return wanted
    found = [template for source in sources if (template := _template(source)) is not None]
    return max(found, key=found.count) if found else None


def write_tokenizer(folder: Path, vocabulary: SharedVocabulary | None, template: str | None) -> None:
    """Make the tokenizer in a folder that of a shared vocabulary, and give it a chat template, where there are such."""
    if vocabulary is not None:
        vocabulary.write(folder)
    if template is None:
        return
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    if (folder / SETTINGS).is_file():
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if settings.pop("chat_template", None) is not None:
            _write(folder / SETTINGS, settings)


def _template(source: Source) -> str | None:
    if source.folder is None:
        return None
    if (source.folder / TEMPLATE).is_file():
        return (source.folder / TEMPLATE).read_text(encoding="utf-8")
    if not (source.folder / SETTINGS).is_file():
        return None
    found = json.loads((source.folder / SETTINGS).read_text(encoding="utf-8")).get("chat_template")
    return found if isinstance(found, str) else None


def _add_tokens(folder: Path, added: Mapping[str, int]) -> None:
    """Add tokens to the tokenizer in a folder, under their numbers, as plain ones that are found in any text."""
    content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    content["added_tokens"] += [{"id": number, "content": token, **plain} for token, number in added.items()]
    _write(folder / TOKENIZER, content)
    settings = folder / SETTINGS
    if settings.is_file():
        document = json.loads(settings.read_text(encoding="utf-8"))
        if "added_tokens_decoder" in document:
            document["added_tokens_decoder"] |= {str(n): {"content": token, **plain} for token, n in added.items()}
            _write(settings, document)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
