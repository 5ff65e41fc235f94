"""The tiny models, as fixtures."""

from tiny_clip import cache, clip_folder, other_clip_folder
from tiny_texts import bert_folder, gpt2_folder

__all__ = ["bert_folder", "cache", "clip_folder", "gpt2_folder", "other_clip_folder"]
