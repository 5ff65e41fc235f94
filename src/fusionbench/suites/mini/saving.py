"""Models of transformers on disk, without a progress bar of their own."""

from pathlib import Path
from typing import Any


def save_quietly(module: Any, folder: Path) -> None:
    """Write a module as Hugging Face does; there is one progress bar, and it is the runner's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        module.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
