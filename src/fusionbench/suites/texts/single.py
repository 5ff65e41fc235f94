"""Tasks of one sentence: is it grammatical, and is it praise?"""

import numpy as np

from fusionbench.suites.texts.clauses import chance, other, pick
from fusionbench.suites.texts.lexicon import (
    ANIMALS,
    BAD,
    DEGREES,
    DISLIKED,
    GOOD,
    LIKED,
    PARTS,
    PEOPLE,
    PLACES,
    THINGS,
    VERBS,
    WORKS,
)

NOUNS = (*PEOPLE, *ANIMALS)


def acceptability(rng: np.random.Generator, label: int) -> tuple[str]:
    """Return a sentence that is grammatical (1), or breaks one rule of English (0): agreement, form, order."""
    kinds = (_agreement, _determiner, _modal, _reflexive, _auxiliary, _passive, _order)
    return (f"{pick(rng, kinds)(rng, bool(label))} .",)


def _subject(rng: np.random.Generator, plural: bool) -> str:
    """Return a subject, sometimes with a noun of the other number between it and its verb."""
    noun = pick(rng, NOUNS)
    head = f"the {noun}s" if plural else f"the {noun}"
    if chance(rng, 0.5):
        near = other(rng, NOUNS, noun)
        return f"{head} near the {near if plural else near + 's'}"
    return head


def _agreement(rng: np.random.Generator, right: bool) -> str:
    plural, verb = chance(rng, 0.5), pick(rng, VERBS)
    form = verb.base if plural == right else verb.third
    return f"{_subject(rng, plural)} {form} the {pick(rng, THINGS)}"


def _determiner(rng: np.random.Generator, right: bool) -> str:
    plural, noun, verb = chance(rng, 0.5), pick(rng, NOUNS), pick(rng, VERBS)
    word = pick(rng, ("these", "those", "many") if plural == right else ("this", "every", "a"))
    return f"{word} {noun}{'s' if plural else ''} {verb.past} the {pick(rng, THINGS)}"


def _modal(rng: np.random.Generator, right: bool) -> str:
    verb = pick(rng, VERBS)
    form = verb.base if right else pick(rng, (verb.third, verb.past))
    modal = pick(rng, ("can", "must", "will", "should"))
    return f"{_subject(rng, chance(rng, 0.5))} {modal} {form} the {pick(rng, THINGS)}"


def _reflexive(rng: np.random.Generator, right: bool) -> str:
    plural, noun = chance(rng, 0.5), pick(rng, ANIMALS)
    word = "themselves" if plural == right else "itself"
    return f"the {noun}{'s' if plural else ''} {pick(rng, VERBS).past} {word} {pick(rng, PLACES)}"


def _auxiliary(rng: np.random.Generator, right: bool) -> str:
    plural, verb = chance(rng, 0.5), pick(rng, VERBS)
    word = "do" if plural == right else "does"
    return f"{_subject(rng, plural)} {word} not {verb.base} the {pick(rng, THINGS)}"


def _passive(rng: np.random.Generator, right: bool) -> str:
    verb = pick(rng, VERBS)
    form = verb.participle if right else pick(rng, (verb.base, verb.third))
    return f"the {pick(rng, THINGS)} was {form} by the {pick(rng, NOUNS)} {pick(rng, PLACES)}"


def _order(rng: np.random.Generator, right: bool) -> str:
    words = f"the {pick(rng, NOUNS)} {pick(rng, VERBS).past} the {pick(rng, THINGS)} {pick(rng, PLACES)}".split()
    if not right:
        at = int(rng.integers(len(words) - 1))
        words[at], words[at + 1] = words[at + 1], words[at]
    return " ".join(words)


def sentiment(rng: np.random.Generator, label: int) -> tuple[str]:
    """Return a remark on a film, book or song that is praise (1) or blame (0); what follows a "but" decides."""
    good = bool(label)
    kind = int(rng.integers(4))
    if kind == 0:
        return (f"i {pick(rng, LIKED if good else DISLIKED)} the {pick(rng, PARTS)} of this {pick(rng, WORKS)} .",)
    if kind == 1:
        return (f"{_remark(rng, good)} and {_remark(rng, good)} .",)
    if kind == 2:
        return (f"{_remark(rng, not good)} , but {_remark(rng, good)} .",)
    return (f"nobody {pick(rng, DISLIKED if good else LIKED)} this {_judged(rng, good)} {pick(rng, WORKS)} .",)


def _remark(rng: np.random.Generator, good: bool) -> str:
    """Return `the plot was very dull`, or the same by denial."""
    part = pick(rng, (*PARTS, *WORKS))
    if chance(rng, 0.3):
        return f"the {part} was {pick(rng, ('not', 'never', 'hardly'))} {pick(rng, BAD if good else GOOD)}"
    return f"the {part} was {pick(rng, DEGREES)}{pick(rng, GOOD if good else BAD)}"


def _judged(rng: np.random.Generator, good: bool) -> str:
    return pick(rng, GOOD if good else BAD)
