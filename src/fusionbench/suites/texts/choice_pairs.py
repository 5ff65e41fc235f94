"""Questions of two texts: do they say the same, does one follow from or answer the other, is a word used alike?"""

from dataclasses import replace
from typing import Any

import numpy as np

from fusionbench.suites.texts import pairs
from fusionbench.suites.texts.clauses import Clause, chance, draw_clause, other, pick
from fusionbench.suites.texts.lexicon import KIND_OF, PEOPLE, THINGS, TIMES
from fusionbench.suites.texts.situations import BELIEFS, SENSES


def rewording(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return two sentences of which the second says the same (1) or not (0), as PAWS has them."""
    first, second = pairs.paraphrase(rng, label)
    return {"sentence1": first, "sentence2": second, "label": label}


def response(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return a question and a sentence that answers it (1) or not (0), as WikiQA has them."""
    question, sentence = pairs.answerable(rng, 1 - label)
    asked = question.removesuffix(" ?")
    return {"question": asked, "document_title": asked.split()[-1], "answer": sentence, "label": label}


def consequence(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return two sentences and one that follows from them (0) or not (1), as RTE has them."""
    premise, hypothesis = pairs.entailment(rng, label)
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def commitment(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return what somebody makes of a claim, and the claim: true (0), untrue (1), left open (2), as CB has them."""
    claim = replace(draw_clause(rng, detail=0.3), who_is=None)
    denied = chance(rng, 0.25)
    kind = 1 - label if denied and label < 2 else label
    said = pick(rng, BELIEFS[kind]).format(who=other(rng, PEOPLE, claim.who), it=claim.active())
    return {"premise": said, "hypothesis": replace(claim, denied=denied).active(), "label": label}


def sense(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return two sentences with a word of the same sense (1) or of two senses (0), as WiC has them."""
    word = pick(rng, tuple(SENSES))
    meaning = int(rng.integers(2))
    first = pick(rng, SENSES[word][meaning])
    second = other(rng, SENSES[word][meaning if label else 1 - meaning], first)
    record: dict[str, Any] = {"word": word}
    for number, frame in enumerate((first, second), start=1):
        ending = f" {pick(rng, TIMES)} ." if chance(rng, 0.5) else " ."
        text = frame.format(who=pick(rng, PEOPLE)) + ending
        start = text.split(" ").index(word)
        place = sum(len(before) + 1 for before in text.split(" ")[:start])
        record |= {f"sentence{number}": text, f"start{number}": place, f"end{number}": place + len(word)}
    return {**record, "label": label}


def round1(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return a sentence and one that follows (0), may be so (1), cannot be so (2), as ANLI has them."""
    said, inferred = pairs.inferred_clauses(rng, label)
    return _round(said.active(), inferred.active(), label)


def round2(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return two sentences, and one to infer from one of them; see `round1`."""
    said, inferred = pairs.inferred_clauses(rng, label)
    return _round(_beside(rng, said), inferred.active(), label)


def round3(rng: np.random.Generator, label: int) -> dict[str, Any]:
    """Return what `round2` does, the sentence to infer in other words and another order."""
    said, inferred = pairs.inferred_clauses(rng, label)
    again = pairs.synonyms(rng, inferred)
    return _round(_beside(rng, said), pick(rng, (again.passive, again.fronted))(), label)


def _beside(rng: np.random.Generator, said: Clause) -> str:
    """Return the sentence before or after one of another person and another kind of thing."""
    kind = KIND_OF[said.what]
    near = draw_clause(rng, detail=0.4, things=[thing for thing in THINGS if KIND_OF[thing] != kind])
    both = [said.active(), replace(near, who=other(rng, PEOPLE, said.who)).active()]
    return " ".join(both if chance(rng, 0.5) else both[::-1])


def _round(premise: str, hypothesis: str, label: int) -> dict[str, Any]:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}
