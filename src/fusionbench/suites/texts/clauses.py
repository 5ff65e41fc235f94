"""Clauses as data (who did what to what, where, when) and the sentences that say them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from fusionbench.suites.texts.lexicon import ADJECTIVES, PEOPLE, PLACES, THINGS, TIMES, VERBS, Verb

T = TypeVar("T")


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """Return one of several, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def other(rng: np.random.Generator, choices: Sequence[T], *taken: T | None) -> T:
    """Return one that is not taken."""
    return pick(rng, [choice for choice in choices if choice not in taken])


def chance(rng: np.random.Generator, probability: float) -> bool:
    """Return true as often as `probability` says."""
    return bool(rng.random() < probability)


@dataclass(frozen=True, slots=True)
class Clause:
    """Somebody did something to a thing; what is None is not said.

    Attributes:
        who: a person.
        verb: what was done.
        what: a thing, or a kind of things.
        who_is: an adjective of the person.
        what_is: an adjective of the thing.
        where: a place, with its preposition.
        when: a time, with its preposition.
        denied: whether it is said that this did not happen.
    """

    who: str
    verb: Verb
    what: str
    who_is: str | None = None
    what_is: str | None = None
    where: str | None = None
    when: str | None = None
    denied: bool = False

    def active(self) -> str:
        """Return the sentence: the old nurse bought the red apple at the market on monday."""
        done = f"did not {self.verb.base}" if self.denied else self.verb.past
        return _sentence(self._who(), done, self._what(), self.where, self.when)

    def passive(self) -> str:
        """Return the passive: the red apple was bought by the old nurse at the market on monday."""
        done = f"was {'not ' if self.denied else ''}{self.verb.participle} by"
        return _sentence(self._what(), done, self._who(), self.where, self.when)

    def fronted(self) -> str:
        """Return the active sentence with time, or else place, at its head, where it says one."""
        first = self.when or self.where
        if first is None:
            return self.active()
        return f"{first} {replace(self, when=None, where=self.where if self.when else None).active()}"

    def _who(self) -> str:
        return _noun(self.who_is, self.who)

    def _what(self) -> str:
        return _noun(self.what_is, self.what)


def _noun(adjective: str | None, noun: str) -> str:
    return f"the {adjective} {noun}" if adjective else f"the {noun}"


def _sentence(*parts: str | None) -> str:
    return " ".join([*(part for part in parts if part), "."])


def draw_clause(
    rng: np.random.Generator, *, verbs: Sequence[Verb] = VERBS, detail: float = 0.5, things: Sequence[str] = THINGS
) -> Clause:
    """Return a random clause.

    Args:
        rng: source of the choices.
        verbs: among which is chosen.
        detail: probability of each adjective, place and time.
        things: among which is chosen.
    """
    return Clause(
        who=pick(rng, PEOPLE),
        verb=pick(rng, verbs),
        what=pick(rng, things),
        who_is=pick(rng, ADJECTIVES) if chance(rng, detail / 2) else None,
        what_is=pick(rng, ADJECTIVES) if chance(rng, detail) else None,
        where=pick(rng, PLACES) if chance(rng, detail) else None,
        when=pick(rng, TIMES) if chance(rng, detail) else None,
    )
