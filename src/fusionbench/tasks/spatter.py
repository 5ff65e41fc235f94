"""Drops of water or mud on a lens (arXiv:1903.12261), with the image operations of OpenCV that they are made of."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Values = NDArray[np.float64]
Bytes = NDArray[np.uint8]
WATER, MUD = np.array([175, 238, 238]) / 255, np.array([63, 42, 20]) / 255
FARTHEST = 20
"""Distance from a drop's edge, in pixels, beyond which its depth stays the same."""
RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
"""Brings out slopes that fall to one corner, as if light came from there."""
WEAK, STRONG = 50, 150
"""Slopes between which Canny's edges are kept where they touch a strong one."""
SOLID = 0.8
"""Mud thinner than this leaves the image as it is."""
EIGHT_NEIGHBOURS = np.ones((3, 3))


def spattered(image: Values, layer: Values, blur: float, threshold: float, strength: float, liquid: str) -> Values:
    """Return an image with drops, not clipped.

    Args:
        image: `(height, width, 3)`, in [0, 1]; not changed.
        layer: `(height, width)`, random heights of the liquid.
        blur: standard deviation in pixels by which the heights are smoothed.
        threshold: heights below are dry.
        strength: of water's light; of mud the blur of its edge.
        liquid: "water" or "mud".
    """
    height = ndimage.gaussian_filter(layer, blur, mode="nearest")
    height = np.where(height < threshold, 0, height)
    if liquid == "mud":
        cover = ndimage.gaussian_filter((height > threshold).astype(np.float64), strength, mode="nearest")
        cover = np.where(cover < SOLID, 0, cover)[..., None]
        muddy: Values = image * (1 - cover) + MUD * cover
        return muddy
    wet = (height * 255).astype(np.int64).astype(np.uint8)
    light = wet * _relief(wet)
    brightest = light.max()
    # Where nothing is wet the authors divide by 0; nothing is added then.
    return image if brightest == 0 else image + strength * (light / brightest)[..., None] * WATER


def _relief(wet: Bytes) -> Values:
    """Return how much light each point of drops throws back: slopes of the distance from their edges."""
    edges = canny(wet, WEAK, STRONG)
    distance = ndimage.distance_transform_edt(~edges) if edges.any() else np.full(wet.shape, FARTHEST)
    depth = equalised(ndimage.uniform_filter(np.minimum(distance, FARTHEST), 3, mode="mirror").astype(np.uint8))
    slopes = np.clip(ndimage.correlate(depth.astype(np.int64), RELIEF, mode="mirror"), 0, 255)
    smooth: Values = np.rint(ndimage.uniform_filter(slopes.astype(np.float64), 3, mode="mirror"))
    return smooth


def equalised(image: Bytes) -> Bytes:
    """Return an image with its histogram spread: level v becomes 255 · (#(≤ v) − #(lowest)) / (#all − #(lowest))."""
    counts = np.bincount(image.ravel(), minlength=256)
    lowest = counts[np.flatnonzero(counts)[0]]
    if lowest == image.size:
        return image
    table = np.rint(255 * np.maximum(np.cumsum(counts) - lowest, 0) / (image.size - lowest)).astype(np.uint8)
    spread: Bytes = table[image]
    return spread


def canny(image: Bytes, weak: float, strong: float) -> NDArray[np.bool_]:
    """Return where the edges of an image are (Canny 1986), slopes taken by Sobel's 3×3 operators, |dx| + |dy|.

    A slope counts where it is the steepest across its edge: larger than the neighbour before, not smaller than that
    behind; and where it is above `strong`, or above `weak` and joined to such a point.
    """
    values = image.astype(np.int64)
    across, down = (ndimage.sobel(values, axis=axis, mode="nearest") for axis in (1, 0))
    steep = np.abs(across) + np.abs(down)
    padded = np.pad(steep, 1)
    height, width = steep.shape

    def beside(below: int, right: int) -> NDArray[np.int64]:
        return padded[1 + below : 1 + below + height, 1 + right : 1 + right + width]

    flat = np.abs(down) < np.tan(np.pi / 8) * np.abs(across)
    upright = np.abs(down) > np.tan(3 * np.pi / 8) * np.abs(across)
    falling = (across * down) >= 0
    largest = np.select(
        [flat, upright, falling],
        [
            (steep > beside(0, -1)) & (steep >= beside(0, 1)),
            (steep > beside(-1, 0)) & (steep >= beside(1, 0)),
            (steep > beside(-1, -1)) & (steep > beside(1, 1)),
        ],
        (steep > beside(-1, 1)) & (steep > beside(1, -1)),
    )
    kept = largest & (steep > weak)
    joined, _ = ndimage.label(kept, EIGHT_NEIGHBOURS)
    sure = np.unique(joined[kept & (steep > strong)])
    edges: NDArray[np.bool_] = np.isin(joined, sure) & kept
    return edges
