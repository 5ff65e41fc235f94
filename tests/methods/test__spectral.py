import numpy as np
import pytest
import torch
from independent_spectral import adam as reference_adam
from matrices import draw, gaps, place, tensor

from fusing import fuse
from fusionbench.methods._spectral import adam, factors, is_matrix, oriented, polar, rounding
from fusionbench.methods.consensus import consensus
from fusionbench.methods.doge_ta import doge_ta
from fusionbench.methods.iso import iso_c, iso_cts
from fusionbench.methods.knots import knots
from fusionbench.methods.lines import lines
from fusionbench.methods.opcm import opcm
from fusionbench.methods.pcb import pcb
from fusionbench.methods.tsv_m import tsv_m
from fusionbench.methods.wudi import wudi


def with_spectrum(rows, columns, values, seed=0):
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(random.normal(size=(columns, len(values))))[0]
    return torch.tensor(left * values @ right.T)


@pytest.mark.parametrize("shape", [(320, 260), (260, 320), (300, 300)])
def test_factors_of_a_large_matrix_are_those_of_the_singular_value_decomposition(shape):
    matrix = with_spectrum(*shape, np.geomspace(3, 3e-4, 260))
    limit = rounding(matrix.float())
    assert limit >= 3e-5
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    found = factors(matrix, limit, 40)
    np.testing.assert_allclose(found.values, values[:40], atol=1e-6)
    np.testing.assert_allclose(
        (found.left * found.values) @ found.right, left[:, :40] * values[:40] @ right[:40], atol=1e-6
    )
    np.testing.assert_allclose(polar(matrix, limit), left[:, :260] @ right[:260], atol=1e-6)


@pytest.mark.parametrize("size", [20, 300])
def test_directions_that_rounding_made_are_left_out(size):
    clean = with_spectrum(size, size, [5.0, 2.0, 1.0])
    noisy = clean + 1e-8 * torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = factors(noisy, rounding(noisy.float()))
    assert found.live.sum() == 3
    assert not found.left[:, 3:].any()
    assert not found.right[3:].any()
    np.testing.assert_allclose(found.left @ found.right, polar(clean, 1e-4), atol=1e-6)


def test_without_a_limit_directions_that_do_not_exist_take_part():
    flat = polar(torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64), None)
    assert torch.linalg.matrix_rank(flat) == 2


@pytest.mark.parametrize("limit", [0.0, 1e-4])
def test_a_matrix_of_zeros_has_no_directions(limit):
    assert not polar(torch.zeros(3, 2, dtype=torch.float64), limit).any()


def test_factors_come_from_the_slow_driver_where_the_fast_one_fails(monkeypatch):
    def fail(*_, **__):
        raise torch.linalg.LinAlgError("did not converge")

    matrix = with_spectrum(5, 4, [3.0, 2.0])
    monkeypatch.setattr(torch.linalg, "svd", fail)
    found = factors(matrix, 1e-12)
    np.testing.assert_allclose(found.values, [3, 2, 0, 0], atol=1e-12)
    np.testing.assert_allclose((found.left * found.values) @ found.right, matrix, atol=1e-12)


@pytest.mark.parametrize(
    ("role", "shape", "embeddings", "expected"),
    [
        ("matrix", (2, 3), False, True),
        ("embedding", (2, 3), False, False),
        ("embedding", (2, 3), True, True),
        ("head", (2, 3), True, True),
        ("bias", (3,), True, False),
        ("conv", (2, 3, 1, 1), True, False),
        ("matrix", (0, 3), True, False),
    ],
)
def test_linear_layers_are_matrices_and_tables_only_on_request(role, shape, embeddings, expected):
    assert is_matrix(torch.zeros(shape), place(role=role), embeddings=embeddings) == expected


def test_without_a_site_everything_of_two_dimensions_is_a_matrix():
    assert is_matrix(torch.zeros(2, 3), None, embeddings=False)
    assert not is_matrix(torch.zeros(3), None, embeddings=True)


def test_a_layer_that_is_stored_by_inputs_is_turned():
    matrix = torch.arange(6.0).view(2, 3)
    assert oriented(matrix, place(inputs_last=False)).equal(matrix.T)
    assert oriented(matrix, place()).equal(matrix)


def test_adam_goes_where_the_textbook_says():
    goal = np.array([[1.0, -2.0], [0.3, 0.0]])
    expected = reference_adam(np.zeros((2, 2)), lambda x: 2 * (x - goal), 40, 0.01)
    found = adam(lambda x: 2 * (x - torch.tensor(goal)), torch.tensor(goal), 40, 0.01)
    np.testing.assert_allclose(found, expected, atol=1e-12)


TURNED = {
    "tsv_m": {},
    "iso_c": {},
    "iso_cts": {"common": 0.5},
    "wudi": {"steps": 20, "learning_rate": 1e-3},
    "knots": {"inner": {"name": "ties", "density": 0.3}},
    "opcm": {},
    "doge_ta": {"steps": 20, "learning_rate": 1e-2, "subspace": 4},
}


@pytest.mark.parametrize("method", TURNED)
def test_layers_of_gpt2_that_are_stored_by_inputs_are_merged_as_their_transposes(method):
    base, experts = draw(shapes={"h.0.mlp.c_fc.weight": (6, 9)})
    turned = {name: {key: value.T for key, value in model.items()} for name, model in experts.items()}
    plain = fuse(method, base, experts, TURNED[method])
    other = fuse(
        method, {key: value.T for key, value in base.items()}, turned, TURNED[method], config={"model_type": "gpt2"}
    )
    assert gaps(plain, {key: value.T for key, value in other.items()}, 1e-5) == set()


@pytest.mark.parametrize(
    ("function", "parameters"),
    [
        (tsv_m, {}),
        (iso_c, {}),
        (iso_cts, {}),
        (wudi, {"steps": 2}),
        (wudi, {"solver": "closed_form"}),
        (knots, {"inner": {"name": "task_arithmetic"}}),
        (lines, {}),
        (opcm, {}),
        (doge_ta, {"steps": 2}),
        (consensus, {}),
        (pcb, {}),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
@pytest.mark.parametrize("shape", [(4, 6), (300, 280)])
def test_a_gpu_is_never_asked_for_a_value(function, parameters, shape):
    # Tensors without values stand for a GPU's: asking for one, or mixing devices, raises.
    base, *experts = (torch.empty(shape, device="meta") for _ in range(3))
    result = function(base, experts, **parameters)
    assert result.device.type == "meta"
    assert result.shape == shape


@pytest.mark.parametrize("method", [*TURNED, "lines", "pcb", "consensus"])
def test_experts_that_equal_the_base_give_the_base(method):
    base, _ = draw()
    merged = fuse(method, base, {"a": base, "b": base})
    assert gaps(merged, base, 0) == set()


@pytest.mark.parametrize("method", [*TURNED, "lines", "pcb", "consensus"])
def test_an_expert_that_changed_nothing_makes_no_nan(method):
    base, experts = draw(2)
    merged = fuse(method, base, {**experts, "idle": base})
    assert all(value.isfinite().all() for value in merged.values())


@pytest.mark.parametrize("method", [*TURNED, "lines", "pcb", "consensus"])
def test_threads_change_nothing(method):
    base, experts = draw()
    parameters = TURNED.get(method, {})
    one, two = (fuse(method, base, experts, parameters, run={"threads": threads}) for threads in (1, 2))
    assert gaps(one, two, 0) == set()


@pytest.mark.parametrize("shape", [(1, 1), (0, 3), (1,), ()])
@pytest.mark.parametrize("function", [tsv_m, iso_c, iso_cts, wudi, knots, lines, opcm, doge_ta, consensus, pcb])
def test_tensors_of_one_entry_and_of_none_are_merged(function, shape):
    base, first, second = (torch.full(shape, value) for value in (1.0, 1.5, 2.0))
    result = function(base, [first, second])
    assert result.shape == base.shape
    assert result.isfinite().all()
    assert base.equal(torch.full(shape, 1.0))
    assert first.equal(torch.full(shape, 1.5))


def test_inputs_of_double_precision_are_merged_in_it():
    base = torch.zeros(2, 2, dtype=torch.float64)
    first = tensor([[3, 0], [0, 1]]).double()
    for function in (tsv_m, iso_c, iso_cts, wudi, knots, lines, opcm, doge_ta, consensus, pcb):
        assert function(base, [first, first]).dtype == torch.float64
