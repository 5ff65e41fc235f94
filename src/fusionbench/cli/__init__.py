"""The command line: `fusionbench` and a verb, then `key=value`. Exit 0 done, 2 the user's mistake, 1 a bug of ours."""

import atexit
import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130
STOPPED = "Stopped. Nothing half-written is left under its final name; the same command goes on or starts anew."


def main() -> None:
    """Run the command line of this process and exit with its code."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1:
        from fusionbench.cli.several import main_of_several

        main_of_several(_main, EXIT_MISTAKE)
    _main()


@contextmanager
def _unsearched() -> Iterator[None]:
    """Let imports make their hundred thousand objects without a search for garbage, now and at the end.

    They hold none worth the time: a tenth of a second, where a short merge takes one.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.freeze)


def _main() -> None:
    try:
        with nullcontext() if f"{__name__}.application" in sys.modules else _unsearched():
            import typer

            from fusionbench.cli.application import application
            from fusionbench.cli.console import complain
            from fusionbench.errors import FusionBenchError, Interrupted
    except KeyboardInterrupt:
        sys.stderr.write(f"error: {STOPPED}\n")
        sys.exit(EXIT_INTERRUPTED)
    try:
        # Typer turns an interruption into this exit code and says nothing of what is left.
        code = application(standalone_mode=False) or 0
        if code == EXIT_INTERRUPTED:
            complain(STOPPED)
        sys.exit(code)
    except (KeyboardInterrupt, typer.Abort):
        complain(STOPPED)
        sys.exit(EXIT_INTERRUPTED)
    except Interrupted as error:
        complain(str(error))
        sys.exit(EXIT_INTERRUPTED)
    except FusionBenchError as error:
        from fusionbench.cli.pages import where_to_read

        complain("\n".join([str(error), *([where_to_read(error.about)] if error.about else [])]))
        sys.exit(EXIT_MISTAKE)
    except Exception as error:
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", EXIT_MISTAKE))
