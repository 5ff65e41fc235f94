"""The command line: `fusionbench` and a verb, then `key=value`. Exit 0 done, 2 the user's mistake, 1 a bug of ours."""

import sys

EXIT_MISTAKE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process and exit with its code."""
    from fusionbench.cli.application import application
    from fusionbench.cli.console import complain
    from fusionbench.errors import FusionBenchError, Interrupted

    try:
        application()
    except Interrupted as error:
        complain(str(error))
        sys.exit(EXIT_INTERRUPTED)
    except FusionBenchError as error:
        complain(str(error))
        sys.exit(EXIT_MISTAKE)
    except KeyboardInterrupt:
        complain(
            "Stopped. Nothing half-written was left under its final name; the same command goes on or starts anew."
        )
        sys.exit(EXIT_INTERRUPTED)
