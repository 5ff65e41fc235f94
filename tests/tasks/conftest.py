"""The tiny models, as fixtures."""

from tiny_causal_lm import causal_lm_folder
from tiny_clip import cache, clip_folder, other_clip_folder
from tiny_t5 import t5_folder
from tiny_texts import bert_folder, gpt2_folder

__all__ = ["bert_folder", "cache", "causal_lm_folder", "clip_folder", "gpt2_folder", "other_clip_folder", "t5_folder"]
