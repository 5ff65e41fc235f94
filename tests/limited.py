"""What a command says that has little memory, or other limits that must not be those of the tests themselves."""

import os
import resource
from collections.abc import Callable
from pathlib import Path


def said_in_a_child(command: Callable[[], object], memory: int | None = None) -> str:
    """Run a command in a child; return the kind and words of its error, nothing where there is none.

    Args:
        command: what is run.
        memory: bytes that it may take beside what this process has; None for all that there are.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        words = ""
        try:
            if memory is not None:
                pages = int(Path("/proc/self/statm").read_text().split()[0])
                most = pages * resource.getpagesize() + memory
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            command()
        except BaseException as error:
            words = f"{type(error).__name__}: {error}"
        os.write(write, words.encode()[:60_000])
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        words = answer.read()
    os.waitpid(child, 0)
    return words
