"""The command line in several processes that torchrun or `accelerate launch` started: one speaks, all exit alike."""

import contextlib
import io
import sys
import traceback
from collections.abc import Callable

from fusionbench.cli.console import complain
from fusionbench.errors import FusionBenchError

TOGETHER = ("run", "finetune", "evaluate")
ALONE = ("-m", "--multirun")


def main_of_several(command: Callable[[], None], mistake: int) -> None:
    """Run a command in this process and the others that were started with it, and exit with its code.

    The main process writes and prints. An error in one of them ends all, with one message: the main process says it, or
    where that is busy for long, the one that failed.

    Args:
        command: exits with its code, after printing what went wrong.
        mistake: the exit code of a user's mistake.
    """
    from fusionbench.training.processes import has_spoken, joined, speaks

    try:
        processes = joined()
    except FusionBenchError as error:
        complain(str(error))
        sys.exit(mistake)
    heard = io.StringIO()
    aside = contextlib.ExitStack()
    if not processes.is_main:
        aside.enter_context(contextlib.redirect_stdout(io.StringIO()))
        aside.enter_context(contextlib.redirect_stderr(heard))
    with aside:
        code = _code_of(command, mistake)
    if code and speaks(processes):
        sys.stderr.write(heard.getvalue())
        sys.stderr.flush()
        has_spoken(processes)
    sys.exit(code)


def _code_of(command: Callable[[], None], mistake: int) -> int:
    """Return the code that a command exits with; of a bug, after printing its traceback."""
    words = sys.argv[1:]
    if words and (words[0] not in TOGETHER or any(word in ALONE for word in words)):
        complain(
            f"{' '.join(words[:1])} is done by one process, and several were started; those that divide their work are "
            f"{', '.join(TOGETHER)}, without -m. Start it without a launcher of processes; many runs are divided by "
            "runtime.launcher=processes."
        )
        return mistake
    try:
        command()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:
        traceback.print_exc()
        return 1
    return 0
