"""Tasks: data splits, a frozen head, metrics over rows, and the loop that scores a model."""

from fusionbench.tasks.base import HasTrainedHead, Metric, Output, Predictor, Rows, Score, Split, Task
from fusionbench.tasks.classification import ClassificationTask, Examples, LabelledSplit
from fusionbench.tasks.data import Corruption, PreparedSplit, RawSplit, from_arrays, prepare
from fusionbench.tasks.datasets import from_dataset
from fusionbench.tasks.evaluation import Evaluation, evaluate
from fusionbench.tasks.heads import ZeroShotHead, zero_shot_head
from fusionbench.tasks.image import ImageTask, open_vocabulary_task
from fusionbench.tasks.metrics import ACCURACY
from fusionbench.tasks.registration import task
from fusionbench.tasks.spec import Columns, TaskSpec, build_task

__all__ = [
    "ACCURACY",
    "ClassificationTask",
    "Columns",
    "Corruption",
    "Evaluation",
    "Examples",
    "HasTrainedHead",
    "ImageTask",
    "LabelledSplit",
    "Metric",
    "Output",
    "Predictor",
    "PreparedSplit",
    "RawSplit",
    "Rows",
    "Score",
    "Split",
    "Task",
    "TaskSpec",
    "ZeroShotHead",
    "build_task",
    "evaluate",
    "from_arrays",
    "from_dataset",
    "open_vocabulary_task",
    "prepare",
    "task",
    "zero_shot_head",
]
