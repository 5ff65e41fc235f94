"""A command in a forked child that ends, as by SIGKILL, at its k-th touch of the disk, or by a real one at any moment.

What it leaves may have whole files under their final names and nothing else there; and the same command, given again,
must end with what an unbroken one leaves, byte for byte.
"""

import _pyio
import builtins
import functools
import hashlib
import io
import itertools
import os
import random
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLED = 9
BROKEN = 1
EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"})
WRITING = os.O_WRONLY | os.O_RDWR
OF_THE_MOMENT = frozenset({"run.json", "study.db"})
"""Of what a command leaves, the files that say when and where it was made; all else is the same each time."""
WITH_TIMES = OF_THE_MOMENT | {"report.html", "average-against-time.png"}
"""The same of commands that make runs and their report, which has the runs' times."""
GROWING = frozenset({"curve.jsonl", "checkpoint.pt", "job.json", "study.db-journal", "study.db-wal", "study.db-shm"})
"""Files that say how far it is; whoever goes on with them knows that a line may be cut off."""
CACHE = "cache/"
"""Where a killed process may leave a file of its own, which nobody looks for."""
UNFINISHED = (".partial", ".part", ".next", ".training", ".lock")
"""Ends of names under which nobody looks for a result."""

Command = Callable[[Path], object]
"""What is killed: it does all that it does in the folder that it is given, which may not be there yet."""
Line = Callable[..., Command]
"""Makes such a command of the words of a command line."""
Arm = Callable[[Callable[[], None]], object]
"""Is given a function to call at further touches of the disk, such as a database's, which Python does not see."""


class _Count:
    """Counts touches of the disk, and ends the process at one of them."""

    def __init__(self, last: int) -> None:
        self._left = last
        self._open, self._fsync, self._pwrite, self._write = io.open, os.fsync, os.pwrite, os.write

    def _last(self) -> bool:
        self._left -= 1
        return self._left == 0

    def touch(self) -> None:
        """Count one more, and end where it is the last."""
        if self._last():
            os._exit(KILLED)

    def watch(self) -> None:
        """Count opening for writing, renaming, removing, making folders, syncing and writing from now on."""
        sys.addaudithook(self._heard)
        os.fsync, os.pwrite, os.write = self._dying_fsync, self._dying_pwrite, self._dying_write
        builtins.open = io.open = self._opened
        # Else the system copies files without a word.
        shutil._USE_CP_SENDFILE = False

    def _opened(self, file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
        """Open by the Python form of the same function, whose writes can be seen, where something is written."""
        opening = _pyio.open if set(mode) & set("wax+") else self._open
        return opening(file, mode, *more, **named)

    def _dying_fsync(self, descriptor: int) -> None:
        self.touch()
        self._fsync(descriptor)

    def _dying_write(self, descriptor: int, content: Any) -> int:
        return self._half(functools.partial(self._write, descriptor), content)

    def _dying_pwrite(self, descriptor: int, content: Any, offset: int) -> int:
        return self._half(lambda part: self._pwrite(descriptor, part, offset), content)

    def _half(self, write: Callable[[Any], int], content: Any) -> int:
        if self._last():
            write(bytes(content)[: len(content) // 2])
            os._exit(KILLED)
        return write(content)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if (writes and arguments[0] != os.devnull) or event in EVENTS:
            self.touch()


def _begin(last: int, command: Callable[[], object], arm: Arm) -> int:
    """Fork a child that runs a command and dies at its `last`-th touch of the disk; return its number."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            count = _Count(last)
            count.watch()
            arm(count.touch)
            command()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def _end(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run_until(last: int, command: Callable[[], object], arm: Arm = id) -> int:
    """Run a command in a child that dies at its `last`-th touch of the disk; return the exit code, 0 where it lived."""
    return _end(_begin(last, command, arm))


def run_for(seconds: float, command: Callable[[], object]) -> int:
    """Run a command in a child that is killed by the system after a while; return the exit code, 0 where it ended."""
    child = _begin(0, command, id)
    watched = os.pidfd_open(child)
    try:
        if not select.select([watched], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(watched)
    return _end(child)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in and below a folder, hidden ones apart; nothing where it is missing."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.startswith(".")
    }


def lasting(folder: Path, moment: frozenset[str] = OF_THE_MOMENT) -> dict[str, str]:
    """The digests of what is the same however often a command was broken."""
    return {
        name: digest
        for name, digest in digests(folder).items()
        if Path(name).name not in moment and not (name.startswith(CACHE) and name.endswith(UNFINISHED))
    }


def _results(folder: Path, moment: frozenset[str]) -> dict[str, str]:
    """The digests of what stands under final names."""
    return {
        name: digest
        for name, digest in lasting(folder, moment).items()
        if Path(name).name not in GROWING and not any(part.endswith(UNFINISHED) for part in Path(name).parts)
    }


class Trial:
    """A command, and what an unbroken one leaves, against which broken ones are held.

    Attributes:
        command: what is killed, in the folder of this trial.
        seconds: that the unbroken one took.
        expected: digests of what it left.
    """

    def __init__(
        self,
        command: Command,
        folder: Path,
        arm: Arm = id,
        ended: Callable[[Path], object] | None = None,
        moment: frozenset[str] = OF_THE_MOMENT,
    ) -> None:
        """Run the command once, unbroken.

        Args:
            command: what is killed.
            folder: of this trial.
            arm: see `Arm`.
            ended: what is the same however it was broken, where not every byte is.
            moment: names of files that are never the same.
        """
        # Always the same folder: some files name others by their paths.
        self._place, self._arm, self._ended = folder / "place", arm, ended
        self._moment = moment
        self.command = functools.partial(command, self._place)
        started = time.monotonic()
        assert run_until(0, self.command) == 0
        self.seconds = time.monotonic() - started
        self.expected = lasting(self._place, moment)
        self._end = ended(self._place) if ended else None
        self._forget()

    def deaths(self, every: int = 1, most: int = 2000) -> int:
        """Kill the command at each (or every so manieth) touch of the disk, check each time; return how many died.

        With FUSIONBENCH_EVERY_DEATH=1 in the environment it is at each; with 2/8 at the second of every eight, so that
        eight such calls, one after the other or side by side, are at each.
        """
        piece, _, pieces = os.environ.get("FUSIONBENCH_EVERY_DEATH", f"1/{every}").partition("/")
        for died, last in enumerate(itertools.count(int(piece), int(pieces or 1))):
            code = run_until(last, self.command, self._arm)
            if code == 0:
                self._forget()
                return died
            assert code == KILLED, f"touch {last}: the command failed by itself"
            assert last < most, f"more than {most} touches of the disk"
            self.goes_on(f"touch {last}")
        raise AssertionError

    def kills(self, times: int = 5, seed: int = 0) -> None:
        """Kill the command by SIGKILL at so many moments that chance chooses, and check each time."""
        chance, longest = random.Random(seed), self.seconds
        for number in range(times):
            moment = chance.uniform(number, number + 1) / times * longest
            while (code := run_for(moment, self.command)) == 0:
                # It was faster this time.
                self._forget()
                moment *= 0.8
            assert code == -signal.SIGKILL
            self.goes_on(f"{moment:.3f} of {self.seconds:.3f} s")

    def goes_on(self, when: str) -> None:
        """Hold what a dead command left against the unbroken one's, then let it go on and compare again."""
        left = _results(self._place, self._moment)
        partial = {name for name, digest in left.items() if self.expected.get(name) != digest}
        assert self._ended or not partial, f"{when}: partial or foreign files: {sorted(partial)}"
        assert run_until(0, self.command) == 0, f"{when}: it does not go on"
        if self._ended:
            assert self._ended(self._place) == self._end, f"{when}: another end than the unbroken one's"
        else:
            found, expected = lasting(self._place, self._moment), self.expected
            changed = {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)}
            assert not changed, f"{when}: other files than the unbroken one's: {sorted(changed)}"
        self._forget()

    def _forget(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
