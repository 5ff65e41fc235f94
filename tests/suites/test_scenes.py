import numpy as np
import pytest

from fusionbench.suites.scenes import CLASSES, make_scenes
from fusionbench.suites.scenes.solids import FAR, Rays, Seen, ball, box, column, panel
from fusionbench.suites.scenes.world import FIELD

AHEAD, UP, ASIDE = [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]


def rays(place: list[float], *ways: list[float]) -> Rays:
    return Rays(np.array(place), np.array([ways]))


def seen_by(given: Rays) -> Seen:
    return Seen.nothing(given)


def test_a_ball_is_met_where_it_is_nearest_with_its_normal_outwards() -> None:
    given = rays([0, 0, -5], AHEAD, UP, [0.0, 0.0, -1.0])
    seen = seen_by(given)
    ball(seen, given, np.array([0.0, 0.0, 0.0]), 2.0, kind=4, thing=9)
    assert seen.distance[0].tolist() == [3, FAR, FAR]  # ahead; above it; behind the camera
    assert seen.normal[0, 0].tolist() == [0, 0, -1]
    assert (seen.kind[0].tolist(), seen.thing[0].tolist()) == ([4, -1, -1], [9, -1, -1])


def test_a_box_is_met_on_the_face_that_the_ray_enters() -> None:
    given = rays([0.5, 0.5, -1], AHEAD, [0.4, 0.0, 1.0], [2.0, 0.0, 1.0])
    seen = seen_by(given)
    box(seen, given, np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0]), kind=3, thing=5)
    assert seen.distance[0].tolist() == [1, 1, FAR]
    assert seen.normal[0, 0].tolist() == [0, 0, -1]
    side = rays([-1, 0.5, 0.5], ASIDE)
    seen = seen_by(side)
    box(seen, side, np.array([0.0, 0.0, 0.0]), np.array([1.0, 1.0, 1.0]), kind=3, thing=5)
    assert seen.normal[0, 0].tolist() == [-1, 0, 0]


def test_a_column_has_a_side_a_lid_and_an_end() -> None:
    given = rays([0, 3, -5], [0.0, -0.5, 1.0], [0.0, -0.2, 1.0], AHEAD)
    seen = seen_by(given)
    column(seen, given, np.array([0.0, 0.0]), 1.0, 2.0, kind=5, thing=6)
    # at depth 4, the side: 3 − 2 = 1; at depth 5 the lid at height 2; nothing above it
    assert seen.distance[0].tolist() == pytest.approx([4, 5, FAR])
    assert seen.normal[0, 0].tolist() == pytest.approx([0, 0, -1])
    assert seen.normal[0, 1].tolist() == [0, 1, 0]


def test_a_panel_is_seen_from_its_front_alone() -> None:
    given = rays([0, 1, 0], [0.0, -0.5, 1.0], UP)
    seen = seen_by(given)
    panel(seen, given, 1, 0.0, 1, kind=0, thing=0)
    assert seen.distance[0].tolist() == [2, FAR]


def test_what_is_nearer_hides_what_is_behind_whatever_was_put_first() -> None:
    given = rays([0, 0, -5], AHEAD)
    for order in ((1.0, 2.0), (2.0, 1.0)):
        seen = seen_by(given)
        for radius in order:
            ball(seen, given, np.array([0.0, 0.0, 0.0]), radius, kind=4, thing=int(radius))
        assert seen.thing[0, 0] == 2


@pytest.fixture(scope="module")
def scenes():
    return make_scenes("test", 12, seed=3)


def test_targets_have_the_forms_that_tasks_read(scenes) -> None:
    assert scenes.images.shape == (12, 48, 64, 3)
    assert scenes.images.dtype == np.uint8
    assert set(np.unique(scenes.segmentation)) <= set(range(-1, len(CLASSES)))
    lengths = np.linalg.norm(scenes.normals.astype(np.float64), axis=-1)
    known = scenes.depth > 0
    assert np.array_equal(lengths > 0, known)
    assert np.allclose(lengths[known], 1, atol=2e-3)


def test_some_pixels_are_unknown_and_edges_are_unlabelled(scenes) -> None:
    assert 0.03 < (scenes.depth == 0).mean() < 0.1
    assert 0.02 < (scenes.segmentation == -1).mean() < 0.2


def test_normals_are_those_of_the_surface_that_depths_describe(scenes) -> None:
    """Points from depth alone; within one thing the cross product of steps to the neighbours is the normal."""
    depth = scenes.depth.astype(np.float64)
    height, width = depth.shape[1:]
    across = ((np.arange(width) + 0.5) / width * 2 - 1) * FIELD
    along = ((np.arange(height) + 0.5) / height * 2 - 1) * FIELD * height / width
    points = np.stack([across * depth, along[:, None] * depth, depth], axis=-1)
    right, below = points[:, :-1, 1:] - points[:, :-1, :-1], points[:, 1:, :-1] - points[:, :-1, :-1]
    normal = np.cross(below, right)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-12
    flat = np.isin(scenes.segmentation, [CLASSES.index(name) for name in ("floor", "ceiling", "wall")])
    # labelled pixels are inside of things, so that their neighbours belong to the same plane
    inside = flat[:, :-1, :-1] & (depth[:, :-1, :-1] > 0) & (depth[:, :-1, 1:] > 0) & (depth[:, 1:, :-1] > 0)
    cosine = (normal * scenes.normals[:, :-1, :-1]).sum(-1)[inside]
    assert inside.sum() > 5000
    # half precision of the depths makes steps of some per cent
    assert np.quantile(cosine, 0.05) > 0.97
    assert np.median(cosine) > 0.998


def test_floors_are_below_ceilings(scenes) -> None:
    rows = np.broadcast_to(np.arange(48)[:, None], (12, 48, 64))
    floor, ceiling = (rows[scenes.segmentation == CLASSES.index(name)] for name in ("floor", "ceiling"))
    assert floor.mean() > 30 > 18 > ceiling.mean()


def test_a_scene_depends_on_seed_split_and_number_alone(scenes) -> None:
    again = make_scenes("test", 3, seed=3)
    for array, whole in zip(again, scenes, strict=True):
        assert np.array_equal(array, whole[:3])
    assert not np.array_equal(make_scenes("train", 1, seed=3).images[0], scenes.images[0])
    assert not np.array_equal(make_scenes("test", 1, seed=4).images[0], scenes.images[0])


def test_images_may_have_another_size() -> None:
    made = make_scenes("test", 1, seed=0, height=10, width=14)
    assert made.images.shape == (1, 10, 14, 3)
    assert made.normals.shape == (1, 10, 14, 3)
