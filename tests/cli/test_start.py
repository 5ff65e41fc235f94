"""What the start and the end of a process do beside the work."""

import subprocess
import sys

SCRIPT = """
import atexit, gc, sys
sys.argv = ["fusionbench", "--version"]
before = gc.get_freeze_count()
def tell():
    held = gc.get_freeze_count()
    print("at the end", gc.isenabled(), held > before, held > after)
collections = [one["collections"] for one in gc.get_stats()]
from fusionbench.cli import main
try:
    main()
except SystemExit as end:
    after = gc.get_freeze_count()
    print("code", end.code)
print("searches", sum(one["collections"] for one in gc.get_stats()) - sum(collections) < 30)
held = [[] for _ in range(1000)]
import atexit
atexit._run_exitfuncs()
tell()
"""


def test_garbage_is_not_looked_for_while_modules_load_nor_at_the_end_and_is_meanwhile():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["code 0", "searches True", "at the end True True True"]
    assert done.stderr == ""
