from collections.abc import Sequence

import pytest
from torch import Tensor

from fusionbench.kernels.combine import AVERAGE
from fusionbench.methods._method import merge_method
from fusionbench.parameters import Density, PerExpert

EXEMPT = dict.fromkeys(("identity", "order", "scale_zero", "shift", "single"), "a method for a test")


def register(function, **changes):
    fields = {"paper": "", "kind": "stream", "category": "merge", "version": 1, "exempt": EXEMPT}
    return merge_method("toy", **{**fields, **changes})(function)


def toy(base: Tensor, experts: Sequence[Tensor], *, density: PerExpert[Density] = 0.5, site: object = None) -> Tensor:
    """Return the base.

    Args:
        base: the pretrained tensor.
        experts: the others.
        density: how much
            of it.
        site: where.
    """
    return base


def test_a_registered_function_stays_a_plain_function():
    assert register(toy) is toy
    assert toy(1, []) == 1


def test_the_entry_describes_the_function():
    entry = register(toy, laws=("identity",), kernel=AVERAGE, unit="row").entry
    assert (entry.name, entry.summary, entry.unit, entry.laws) == ("toy", "Return the base.", "row", ("identity",))
    assert entry.location == f"{__name__}:toy"
    assert entry.kernel == "fusionbench.kernels.combine:AVERAGE"
    assert entry.load() is toy
    (density,) = entry.parameters
    assert (density.name, density.default, density.per_expert, density.doc) == ("density", 0.5, True, "how much of it.")
    assert (density.low, density.high, density.open) == (0, 1, "left")


def test_a_first_look_is_left_on_the_function():
    def look(read, at):
        return None

    assert register(toy, prepare=look).prepare is look


def test_a_signature_that_does_not_fit_the_kind_is_refused():
    with pytest.raises(TypeError, match=r"toy is of kind 'stream', but takes \['experts', 'base'\]"):
        register(lambda experts, base: base)
    with pytest.raises(TypeError, match="kind 'whole'"):
        register(toy, kind="whole")


def test_a_law_that_is_neither_claimed_nor_explained_is_refused():
    with pytest.raises(TypeError, match="claim or explain the laws order, single"):
        register(toy, laws=("shift",), exempt={"identity": "no", "scale_zero": "no"})


def test_a_parameter_that_no_recipe_can_express_is_refused():
    def odd(base: Tensor, experts: Sequence[Tensor], *, mask: Tensor) -> Tensor:
        return base

    with pytest.raises(TypeError, match=r"'mask'.*cannot express"):
        register(odd)


def test_a_method_of_another_kind_need_not_claim_laws():
    def nothing() -> None:
        """Do nothing."""

    assert register(nothing, kind="reference", exempt=None).entry.kind == "reference"


def test_a_part_that_is_asked_of_families_is_kept_and_an_unknown_one_refused():
    assert register(toy, parts=("mlps",)).entry.data == {"parts": ["mlps"]}
    assert register(toy).entry.data is None
    with pytest.raises(TypeError, match="toy: families have no parts layers; expected some of linears, blocks"):
        register(toy, parts=("mlps", "layers"))
