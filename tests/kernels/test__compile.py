import os
import subprocess
import sys

COMPILE = """
import numpy as np
from fusionbench.kernels.counting import count_equal
print(count_equal(np.array([[1, 2, 1]], np.uint32), np.array([1], np.uint32)).tolist())
"""


def test_compiled_code_is_kept_in_the_users_cache(tmp_path):
    environment = {**os.environ, "FUSIONBENCH_CACHE": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[2]\n"
    assert any(path.suffix == ".nbc" for path in (tmp_path / "numba").rglob("*"))
