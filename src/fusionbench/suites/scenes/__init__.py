"""Scenes seen by a pinhole camera, made by code: colours with exact segmentation, depth and normals of each pixel."""

from fusionbench.suites.scenes.world import CLASSES, MISSES, Scenes, make_scenes

__all__ = ["CLASSES", "MISSES", "Scenes", "make_scenes"]
