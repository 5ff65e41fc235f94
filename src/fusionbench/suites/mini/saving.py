"""Models of transformers from and to disk, without a progress bar of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def quietly() -> Iterator[None]:
    """Keep Hugging Face's progress bars away for a while; there is one bar, and it is the runner's."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def save_quietly(module: Any, folder: Path) -> None:
    """Write a module as Hugging Face does."""
    with quietly():
        module.save_pretrained(folder)
