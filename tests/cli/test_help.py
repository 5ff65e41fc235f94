"""What others rely on: the help of every verb. A change here is a change of the contract, and goes into the changelog.

Write the pinned file anew with: FUSIONBENCH_UPDATE_CONTRACTS=1 pytest tests/cli/test_help.py
"""

import os
from collections.abc import Callable
from pathlib import Path

from fusionbench.cli.application import application

PINNED = Path(__file__).parents[1] / "contracts" / "help.txt"
VERBS = sorted(command.name or command.callback.__name__ for command in application.registered_commands)


def test_the_help_of_every_verb_is_the_pinned_one(cli: Callable[..., tuple[int, str, str]]) -> None:
    texts = []
    for arguments in (["--help"], *([verb, "--help"] for verb in VERBS)):
        code, out, _ = cli(*arguments)
        assert code == 0
        texts.append(f"$ fusionbench {' '.join(arguments)}\n{out.rstrip()}\n")
    found = "\n".join(texts)
    if os.environ.get("FUSIONBENCH_UPDATE_CONTRACTS"):
        PINNED.write_text(found)
    assert found == PINNED.read_text()


def test_every_verb_shows_an_example(cli: Callable[..., tuple[int, str, str]]) -> None:
    for verb in VERBS:
        assert "Example: fusionbench " in cli(verb, "--help")[1], verb
