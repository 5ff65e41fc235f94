"""Numbers that arithmetic trips over: ties in magnitude, both zeros, denormals, and everything between."""

from hypothesis import strategies as st

TIED = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0**-149, -(2.0**-149), 2.0**-127, 3.0, -3.0])
numbers = TIED | st.floats(-(2.0**50), 2.0**50, width=32, allow_nan=False)


def rows(most: int = 5, longest: int = 40) -> st.SearchStrategy[list[list[float]]]:
    """A base and some experts: lists of one length."""
    sizes = st.tuples(st.integers(2, most + 1), st.integers(0, longest))
    return sizes.flatmap(
        lambda size: st.lists(st.lists(numbers, min_size=size[1], max_size=size[1]), min_size=size[0], max_size=size[0])
    )
