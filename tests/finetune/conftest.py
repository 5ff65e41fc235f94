"""The tiny CLIP, as fixtures."""

from tiny_clip import cache, clip_folder, other_clip_folder

__all__ = ["cache", "clip_folder", "other_clip_folder"]
