"""Image tasks that need no network: eight small classification tasks for the suite `mini/clip`.

`make_task("land", seed=0)` gives images, labels and words; `captions` and `make_broad` give what a CLIP-like model is
pretrained on. Three tasks hold recorded images (mnist, digits, fashion); the others are drawn or rendered here and are
named by what they show, never by a data set they resemble.
"""

from fusionbench.suites.images.broad import make_broad
from fusionbench.suites.images.captions import captions, prompts
from fusionbench.suites.images.catalogue import TASKS, make_task
from fusionbench.suites.images.splits import SIDE, SPLITS, ImageSplit, ImageTaskData, SplitName

__all__ = [
    "SIDE",
    "SPLITS",
    "TASKS",
    "ImageSplit",
    "ImageTaskData",
    "SplitName",
    "captions",
    "make_broad",
    "make_task",
    "prompts",
]
