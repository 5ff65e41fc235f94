"""Tasks of two texts: does one follow, do they say the same, does one answer the other, how alike are they?"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fusionbench.suites.texts.clauses import Clause, chance, draw_clause, other, pick
from fusionbench.suites.texts.lexicon import (
    ADJECTIVES,
    CHORES,
    CIRCUMSTANCES,
    KIND_OF,
    KINDS,
    OPPOSITE_ADJECTIVES,
    OPPOSITE_VERBS,
    PEOPLE,
    PLACES,
    SAME_ADJECTIVES,
    SAME_VERBS,
    THINGS,
    TIMES,
    VERBS,
)

Change = Callable[[np.random.Generator, Clause], Clause | None]
"""From a clause to another one; None where this clause has nothing to change in this way."""
ENTAILED, NEUTRAL, CONTRADICTED = 0, 1, 2


def inference(rng: np.random.Generator, label: int) -> tuple[str, str]:
    """Return premise and hypothesis: it follows (0), may be so or not (1), cannot be so (2)."""
    said, inferred = inferred_clauses(rng, label)
    return said.active(), inferred.active()


def inferred_clauses(rng: np.random.Generator, label: int) -> tuple[Clause, Clause]:
    """Return what is said and what is asked, the clauses of `inference`."""
    verbs = [verb for pair in OPPOSITE_VERBS for verb in pair]
    said = draw_clause(rng, verbs=verbs, detail=0.7)
    changes: dict[int, tuple[Change, ...]] = {
        ENTAILED: (_drop, _generalise),
        NEUTRAL: (_add, _specify),
        CONTRADICTED: (_deny, _opposite_verb, _opposite_adjective),
    }
    return said, _changed(rng, said, changes[label])


def entailment(rng: np.random.Generator, label: int) -> tuple[str, str]:
    """Return a text of two sentences and one that follows from it (0) or does not (1)."""
    first, second = draw_clause(rng, detail=0.6), draw_clause(rng, detail=0.6)
    said = pick(rng, (first, second))
    changes: tuple[Change, ...] = (_drop, _generalise) if label == 0 else (_other_who, _other_what, _add, _other_place)
    follows = _changed(rng, said, changes)
    form = follows.passive() if chance(rng, 0.5) else follows.active()
    return f"{first.active()} {second.active()}", form


def paraphrase(rng: np.random.Generator, label: int) -> tuple[str, str]:
    """Return two sentences that say the same in other words (1), or something else in similar words (0)."""
    said = draw_clause(rng, detail=0.6)
    again = synonyms(rng, said)
    if label == 0:
        again = _changed(rng, again, (_other_who, _other_what, _other_place, _other_time))
    form = pick(rng, (again.passive, again.fronted, again.active))()
    return said.active(), form


def duplicates(rng: np.random.Generator, label: int) -> tuple[str, str]:
    """Return two questions that ask the same (1), or not (0)."""
    chore = pick(rng, CHORES)
    how = pick(rng, CIRCUMSTANCES)
    first = _ask(rng, pick(rng, chore), how)
    if label == 0:
        if chance(rng, 0.5):
            chore = other(rng, CHORES, chore)
        else:
            how = other(rng, CIRCUMSTANCES, how)
    return first, _ask(rng, pick(rng, chore), how)


def answerable(rng: np.random.Generator, label: int) -> tuple[str, str]:
    """Return a question and a sentence that answers it (0) or does not (1)."""
    said = draw_clause(rng, detail=0.5)
    asked = int(rng.integers(3))
    if asked == 0:
        said = replace(said, where=said.where or pick(rng, PLACES))
    if asked == 1:
        said = replace(said, when=said.when or pick(rng, TIMES))
    question = (
        f"where did the {said.who} {said.verb.base} the {said.what} ?",
        f"when did the {said.who} {said.verb.base} the {said.what} ?",
        f"who {said.verb.past} the {said.what} ?",
    )[asked]
    if label == 1:
        silent: tuple[Change, ...] = ((_no_place, _other_who), (_no_time, _other_who), (_other_what, _other_verb))[
            asked
        ]
        said = _changed(rng, said, (*silent, _other_what, _other_verb))
    return question, said.active()


def similarity(rng: np.random.Generator, shared: int) -> tuple[str, str]:
    """Return two sentences that agree in so many of five things: who, verb, what, where, when."""
    said = replace(draw_clause(rng, detail=0.0), where=pick(rng, PLACES), when=pick(rng, TIMES))
    changes: tuple[Change, ...] = (_other_who, _other_verb, _other_what, _other_place, _other_time)
    again = said
    for number in rng.permutation(len(changes))[shared:]:
        again = changes[int(number)](rng, again) or again
    return said.active(), (again.passive() if chance(rng, 0.3) else again.active())


def _changed(rng: np.random.Generator, clause: Clause, changes: tuple[Change, ...]) -> Clause:
    """Return the clause changed in one of several ways, one that is possible for it."""
    for number in rng.permutation(len(changes)):
        found = changes[int(number)](rng, clause)
        if found is not None:
            return found
    raise ValueError(f"nothing can be changed in {clause}")


def _drop(rng: np.random.Generator, clause: Clause) -> Clause | None:
    said = [name for name in ("who_is", "what_is", "where", "when") if getattr(clause, name)]
    return _with(clause, pick(rng, said), None) if said else None


def _generalise(rng: np.random.Generator, clause: Clause) -> Clause | None:  # noqa: ARG001
    return replace(clause, what=KIND_OF[clause.what])


def _add(rng: np.random.Generator, clause: Clause) -> Clause | None:
    choices = {"who_is": ADJECTIVES, "what_is": ADJECTIVES, "where": PLACES, "when": TIMES}
    open_places = [name for name in choices if getattr(clause, name) is None]
    if not open_places:
        return replace(clause, what_is=None, who_is=other(rng, ADJECTIVES, clause.who_is))
    name = pick(rng, open_places)
    return _with(clause, name, pick(rng, choices[name]))


def _with(clause: Clause, name: str, value: str | None) -> Clause:
    changes: dict[str, Any] = {name: value}
    return replace(clause, **changes)


def _specify(rng: np.random.Generator, clause: Clause) -> Clause | None:
    other_of_kind = other(rng, KINDS[KIND_OF[clause.what]], clause.what)
    return replace(clause, what=other_of_kind)


def _deny(rng: np.random.Generator, clause: Clause) -> Clause | None:  # noqa: ARG001
    return replace(clause, denied=True)


def _opposite_verb(rng: np.random.Generator, clause: Clause) -> Clause | None:
    partners = [b if a == clause.verb else a for a, b in OPPOSITE_VERBS if clause.verb in (a, b)]
    return replace(clause, verb=pick(rng, partners)) if partners else None


def _opposite_adjective(rng: np.random.Generator, clause: Clause) -> Clause | None:
    partners = [b if a == clause.what_is else a for a, b in OPPOSITE_ADJECTIVES if clause.what_is in (a, b)]
    return replace(clause, what_is=pick(rng, partners)) if partners else None


def _other_who(rng: np.random.Generator, clause: Clause) -> Clause | None:
    return replace(clause, who=other(rng, PEOPLE, clause.who))


def _other_what(rng: np.random.Generator, clause: Clause) -> Clause | None:
    kind = KIND_OF[clause.what]
    return replace(clause, what=other(rng, [thing for thing in THINGS if KIND_OF[thing] != kind]))


def _other_verb(rng: np.random.Generator, clause: Clause) -> Clause | None:
    same = [verb for pair in SAME_VERBS if clause.verb in pair for verb in pair]
    return replace(clause, verb=other(rng, VERBS, *same))


def _other_place(rng: np.random.Generator, clause: Clause) -> Clause | None:
    return replace(clause, where=other(rng, PLACES, clause.where)) if clause.where else None


def _other_time(rng: np.random.Generator, clause: Clause) -> Clause | None:
    return replace(clause, when=other(rng, TIMES, clause.when)) if clause.when else None


def _no_place(rng: np.random.Generator, clause: Clause) -> Clause | None:  # noqa: ARG001
    return replace(clause, where=None)


def _no_time(rng: np.random.Generator, clause: Clause) -> Clause | None:  # noqa: ARG001
    return replace(clause, when=None)


def synonyms(rng: np.random.Generator, clause: Clause) -> Clause:
    """Return the clause with some of its words exchanged for others of the same meaning."""
    verb = next((b if a == clause.verb else a for a, b in SAME_VERBS if clause.verb in (a, b)), clause.verb)
    adjective = next(
        (b if a == clause.what_is else a for a, b in SAME_ADJECTIVES if clause.what_is in (a, b)), clause.what_is
    )
    return replace(
        clause,
        verb=verb if chance(rng, 0.7) else clause.verb,
        what_is=adjective if chance(rng, 0.7) else clause.what_is,
    )


def _ask(rng: np.random.Generator, chore: str, how: str) -> str:
    forms = (
        "how do i {}",
        "how can i {}",
        "what is the best way to {}",
        "how should one {}",
        "what do i need to {}",
    )
    return " ".join(f"{pick(rng, forms).format(chore)} {how} ?".split())
