"""A process that does jobs: `python -m fusionbench.launch.worker`, a job a line in, an answer a line out.

It stops when there are no more lines; where that happens while it works, whoever started it is gone, and it tidies up.
"""

import json
import os
import queue
import signal
import sys
import threading
from typing import Any

STOPPED = 130


class _Orders:
    """Lines of standard input, read in a thread so that the end is noticed while a job is being done."""

    def __init__(self) -> None:
        self.busy = False
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        self._lines.put("")
        if self.busy:
            os.kill(os.getpid(), signal.SIGINT)

    def next(self) -> Any:
        """Return the next job, None when there is none."""
        line = self._lines.get()
        self.busy = bool(line)
        return json.loads(line) if line else None


def main() -> int:
    """Do jobs until there are no more; return the exit code."""
    # A job of a shell's background is started with interruptions ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Answers go where standard output was; what a library prints joins the errors.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    orders = _Orders()
    from fusionbench.errors import Interrupted
    from fusionbench.launch.jobs import perform

    try:
        while (job := orders.next()) is not None:
            answer = perform(job)
            orders.busy = False
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    except (KeyboardInterrupt, Interrupted, BrokenPipeError):
        return STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
