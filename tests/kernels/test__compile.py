import os
import subprocess
import sys

import numpy as np
import pytest

from fusionbench.kernels import _compile
from fusionbench.kernels._compile import Compiled, compiled

ONE = 1
RUN = """
import sys
import numpy as np
from fusionbench.kernels.counting import count_equal
print(count_equal(np.array([[1, 2, 1]], np.uint32), np.array([1], np.uint32)).tolist(), "numba" in sys.modules)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path))


def add(out, values, factor, ready):
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[row, i] += values[i] * factor if ready else ONE


@compiled
def doubled(value):
    return value * 2 + ONE


@compiled
def filled(out, first):
    for i in range(out.shape[0]):
        out[i] = doubled(first + i)
    return out.shape[0] > 2


def test_machine_code_is_kept_and_later_starts_do_without_the_compiler(tmp_path):
    said = [subprocess.run([sys.executable, "-c", RUN], env=os.environ, capture_output=True, text=True) for _ in "12"]
    assert [one.stdout for one in said] == ["[2] True\n", "[2] False\n"]
    assert len(list((tmp_path / "kernels").iterdir())) == 1


def test_arrays_of_every_layout_are_read_and_written_in_place():
    values = np.arange(3, dtype=np.float32)
    for out in (np.ones((2, 3)), np.ones((2, 6))[:, ::2], np.ones((3, 2)).T, np.ones((2, 9))[:, 3:6]):
        compiled(add)(out, values, np.float32(0.5), True)
        assert out.tolist() == [[1, 1.5, 2]] * 2
        compiled(add)(out, values, 0.5, False)
        assert out.tolist() == [[2, 2.5, 3]] * 2


def test_functions_call_one_another_and_return_numbers():
    out = np.zeros(3, np.int64)
    assert filled(out, 5) is True
    assert out.tolist() == [11, 13, 15]
    assert filled(np.zeros(1, np.int64), 5) is False
    assert doubled(np.float64(0.25)) == 1.5
    assert doubled(3) == 7


def test_division_is_that_of_the_standard():
    @compiled
    def divided(out, by):
        for i in range(out.shape[0]):
            out[i] = out[i] / by[i]

    out = np.array([1.0, -1.0, 0.0])
    divided(out, np.zeros(3))
    assert out[:2].tolist() == [np.inf, -np.inf]
    assert np.isnan(out[2])


def test_a_changed_constant_or_callee_is_other_code(monkeypatch):
    before = filled.fingerprint()
    assert before == filled.fingerprint()
    monkeypatch.setitem(globals(), "ONE", 2)
    assert filled.fingerprint() != before


def test_other_operations_are_other_code():
    def less(a, b):
        return a < b

    def more(a, b):
        return a > b

    assert Compiled(less).fingerprint() != Compiled(more).fingerprint()


def test_damaged_code_is_made_again_and_never_run(tmp_path):
    def bumped(value):
        return value + 1

    assert compiled(bumped)(1) == 2
    (file,) = (tmp_path / "kernels").iterdir()
    sound = file.read_bytes()
    for damaged in (sound[:-1], sound[:-4] + b"\0\0\0\1", b"", b"{}\n", sound[:40]):
        file.write_bytes(damaged)
        assert compiled(bumped)(1) == 2
        assert _compile._kept(file) is not None


def test_code_is_made_once_for_a_kind_of_arguments(monkeypatch):
    made = []
    real = _compile._machine_code
    monkeypatch.setattr(_compile, "_machine_code", lambda *given: made.append(1) or real(*given))
    function = compiled(lambda value: value + 1)
    assert [function(1), function(2), function(1.5)] == [2, 3, 2.5]
    assert len(made) == 2


def test_where_code_cannot_be_kept_it_runs_all_the_same(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FUSIONBENCH_CACHE", str(tmp_path / "file" / "cache"))
    assert compiled(lambda value: value + 2)(1) == 3
    assert "each start compiles again" in caplog.text


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, caplog):
    def full(place, content):
        place.open("wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_compile.Path, "write_bytes", full)
    assert compiled(lambda value: value + 3)(1) == 4
    assert "No space left" in caplog.text
    assert not list((tmp_path / "kernels").iterdir())


def test_code_of_another_processor_is_not_run(tmp_path, monkeypatch):
    function = lambda value: value + 4  # noqa: E731
    assert compiled(function)(1) == 5
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_name", lambda: "generic")
    assert compiled(function)(1) == 5
    assert len(list((tmp_path / "kernels").iterdir())) == 2
