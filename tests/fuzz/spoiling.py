"""Documents that were true, and are not any more: what tests of readers begin with."""

import contextlib
import json

from hypothesis import strategies as st

from fusionbench.errors import FusionBenchError

TEXT = st.text(max_size=12)
NUMBERS = st.one_of(st.integers(), st.integers(2**62, 2**80), st.floats())
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, st.sampled_from(["${seed}", "../x", "/", "inf", "1e999"]))
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=8,
)


def read_or_refused(read: object, *arguments: object) -> None:
    """Call; errors of ours are an answer, all others fail the test."""
    with contextlib.suppress(FusionBenchError):
        read(*arguments)  # type: ignore[operator]


@st.composite
def spoiled(draw: st.DrawFn, true: object) -> object:
    """A true document with one or two values, at any depth, replaced, removed or added."""
    document = json.loads(json.dumps(true))
    for _ in range(draw(st.integers(1, 2))):
        place = document
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = draw(st.sampled_from(keys))
            below = place[key]
            if isinstance(below, dict | list) and below and draw(st.booleans()):
                place = below
                continue
            match draw(st.sampled_from(["replace", "remove", "add"])):
                case "replace":
                    place[key] = draw(JUNK)
                case "remove":
                    del place[key]
                case _ if isinstance(place, dict):
                    place[draw(TEXT)] = draw(JUNK)
                case _:
                    place.append(draw(JUNK))
            break
    return document
