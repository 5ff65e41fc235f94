"""Two experts on one base, as adapters and merged by PEFT."""

from pathlib import Path

import pytest
from peft import LoraConfig

from adapted import ALL, IA3_CASES, adapt, gpt2, llama


@pytest.fixture
def two(tmp_path) -> Path:
    for seed in (1, 2):
        adapt(tmp_path, llama(), LoraConfig(r=4 * seed, target_modules=ALL), seed)
    return tmp_path


@pytest.fixture
def vectors(tmp_path) -> Path:
    for seed in (1, 2):
        adapt(tmp_path, gpt2(), IA3_CASES["ia3 of conv1d"][1], seed)
    return tmp_path
