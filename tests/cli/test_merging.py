"""`merge` and `inspect` by the command line: what they say, what they refuse, what they leave behind."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from fusionbench.weights.writer import CheckpointWriter

Cli = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


def test_two_experts_are_merged_into_a_folder_with_config_and_recipe(
    cli: Cli, checkpoint: Write, tmp_path: Path
) -> None:
    base, math = checkpoint("base"), checkpoint("math", w=np.full((3, 4), 2.0, np.float32))
    code, out, _ = cli("merge", f"base={base}", f"experts.math={math}", "method=task_arithmetic", "method.scale=0.5",
                       "--out", tmp_path / "merged")  # fmt: skip
    assert code == 0
    assert "Merged 1 expert by task_arithmetic" in out
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    np.testing.assert_allclose(merged["layers.0.w"], (np.arange(12).reshape(3, 4) + 2) / 2)
    assert merged["count"].tolist() == [3]
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "toy"
    raw = (tmp_path / "merged" / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    recipe = json.loads(header["__metadata__"]["fusionbench"])
    assert recipe["recipe"]["method"]["scale"] == 0.5
    assert recipe["inputs"]["math"].startswith("fp:")


def test_a_dry_run_prints_the_recipe_and_writes_nothing(cli: Cli, checkpoint: Write, tmp_path: Path) -> None:
    base = checkpoint("base")
    code, out, _ = cli(
        "merge", f"base={base}", f"experts.a={base}", "method=ties", "--out", tmp_path / "m", "--dry-run"
    )
    assert code == 0
    assert "name: ties" in out
    assert not (tmp_path / "m").exists()


class TestMistakes:
    """Each is one clear error that names the culprit and the fix, exit code 2, nothing written."""

    @pytest.fixture
    def refused(self, cli: Cli, tmp_path: Path) -> Callable[..., str]:
        def call(*arguments: object) -> str:
            out = tmp_path / "out"
            code, said, err = cli("merge", *arguments, "--out", out)
            assert code == 2, (said, err)
            assert err.startswith("error: ")
            assert said == ""
            assert not out.exists()
            assert not (tmp_path / "out.partial").exists()
            return err

        return call

    def test_a_number_of_experts_that_means_nothing_to_the_method_in_a_dry_run_too(
        self, refused: Callable[..., str], checkpoint: Write
    ) -> None:
        experts = [f"experts.{name}={checkpoint(name)}" for name in "abc"]
        assert "Name two experts" in refused(*experts, "method=slerp", "--dry-run")
        assert "Name two experts" in refused(*experts, "method=slerp")

    def test_an_unknown_method(self, refused: Callable[..., str], checkpoint: Write) -> None:
        err = refused(f"base={checkpoint('base')}", "experts.a=x", "method=tise")
        assert "There is no method named 'tise'. Did you mean ties" in err

    def test_an_unknown_parameter(self, refused: Callable[..., str], checkpoint: Write) -> None:
        err = refused(f"base={checkpoint('base')}", "experts.a=x", "method=ties", "method.densty=0.2")
        assert "densty" in err
        assert "density" in err

    def test_a_value_out_of_range(self, refused: Callable[..., str], checkpoint: Write) -> None:
        err = refused(f"base={checkpoint('base')}", "experts.a=x", "method=ties", "method.density=1.5")
        assert "method.density" in err
        assert "(0, 1]" in err

    def test_a_missing_folder(self, refused: Callable[..., str], checkpoint: Write, tmp_path: Path) -> None:
        err = refused(f"base={checkpoint('base')}", f"experts.a={tmp_path / 'nothing'}", "method=ties")
        assert "There is no model at" in err
        assert "nothing" in err

    def test_a_folder_without_a_model(self, refused: Callable[..., str], checkpoint: Write, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        err = refused(f"base={checkpoint('base')}", f"experts.a={tmp_path / 'empty'}", "method=ties")
        assert "model.safetensors" in err

    @pytest.mark.parametrize("kept", [0, 5, 60, -4])
    def test_a_truncated_file(self, refused: Callable[..., str], checkpoint: Write, kept: int) -> None:
        base, expert = checkpoint("base"), checkpoint("expert")
        file = expert / "model.safetensors"
        file.write_bytes(file.read_bytes()[:kept])
        err = refused(f"base={base}", f"experts.a={expert}", "method=ties")
        assert str(file) in err
        assert "Download or save it again" in err

    def test_a_corrupt_header(self, refused: Callable[..., str], checkpoint: Write) -> None:
        base, expert = checkpoint("base"), checkpoint("expert")
        file = expert / "model.safetensors"
        raw = bytearray(file.read_bytes())
        raw[8] = ord("x")
        file.write_bytes(bytes(raw))
        assert "corrupt header" in refused(f"base={base}", f"experts.a={expert}", "method=ties")

    def test_every_difference_between_models_at_once(self, refused: Callable[..., str], checkpoint: Write) -> None:
        base = checkpoint("base")
        expert = checkpoint("expert", w=np.ones((2, 4), np.float32), b=None, more=np.ones(2, np.float32))
        other = checkpoint("other", count=np.ones(1, np.float32))
        err = refused(f"base={base}", f"experts.a={expert}", f"experts.b={other}", "method=ties")
        assert "a: layers.0.w is 2×4" in err
        assert "3×4" in err
        assert "a: has no layers.0.b" in err
        assert "a: has more 2" in err
        assert "b: count holds F32" in err
        assert "4 differences" in err

    def test_another_architecture(self, refused: Callable[..., str], checkpoint: Write) -> None:
        other = checkpoint("other", config={"model_type": "bert"})
        err = refused(f"base={checkpoint('base')}", f"experts.a={other}", "method=ties")
        assert "'bert'" in err
        assert "'toy'" in err

    @pytest.mark.parametrize("method", ["simple_average", "task_arithmetic", "ties", "weighted_average"])
    @pytest.mark.parametrize("wild", [np.nan, np.inf])
    def test_an_expert_with_nan(self, refused: Callable[..., str], checkpoint: Write, method: str, wild: float) -> None:
        values = np.ones((3, 4), np.float32)
        values[1, 2] = wild
        expert = checkpoint("expert", w=values)
        err = refused(f"base={checkpoint('base')}", f"experts.a={expert}", f"method={method}")
        assert "layers.0.w" in err
        assert "[1, 2]" in err
        assert str(expert) in err

    def test_a_method_without_its_base(self, refused: Callable[..., str], checkpoint: Write) -> None:
        assert "base=REF" in refused(f"experts.a={checkpoint('a')}", "method=task_arithmetic")

    def test_a_parent_that_is_a_file(self, cli: Cli, checkpoint: Write, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        base = checkpoint("base")
        code, _, err = cli(
            "merge", f"base={base}", f"experts.a={base}", "method=ties", "--out", tmp_path / "file" / "m"
        )
        assert code == 2
        assert "cannot be written" in err

    def test_an_output_that_exists_is_never_written_over(self, cli: Cli, checkpoint: Write, tmp_path: Path) -> None:
        base = checkpoint("base")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("kept")
        code, _, err = cli("merge", f"base={base}", f"experts.a={base}", "method=ties", "--out", tmp_path / "out")
        assert code == 2
        assert "exists" in err
        assert (tmp_path / "out" / "precious").read_text() == "kept"

    def test_no_output_folder(self, cli: Cli, checkpoint: Write) -> None:
        base = checkpoint("base")
        code, _, err = cli("merge", f"base={base}", f"experts.a={base}", "method=ties")
        assert code == 2
        assert "--out" in err


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "slerp"])
def test_ctrl_c_ends_in_words_and_leaves_nothing(
    cli: Cli, checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def stopped(*arguments: object) -> None:
        assert (tmp_path / "out.partial").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "write", stopped)
    base = checkpoint("base")
    code, _, err = cli("merge", f"base={base}", f"experts.a={base}", f"method={method}", "--out", tmp_path / "out")
    assert code == 130
    assert "Stopped" in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


INTERRUPTED = """
import os, pathlib, signal, sys
# A job in the background is started with interruptions ignored; the command line should not be.
signal.signal(signal.SIGINT, signal.default_int_handler)
from fusionbench.cli import main
from fusionbench.weights.writer import CheckpointWriter
real = CheckpointWriter.write
def write(self, *arguments):
    print("interrupted while", *pathlib.Path().glob("out*"), "was there", flush=True)
    CheckpointWriter.write = real
    os.kill(os.getpid(), signal.SIGINT)
    return real(self, *arguments)
CheckpointWriter.write = write
sys.argv[0] = "fusionbench"
main()
"""


def test_an_interrupted_process_dies_with_its_code_and_the_same_command_goes_on(
    cli: Cli, checkpoint: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real signal to a real process while it writes."""
    # More blocks than are begun at a time, so that the tensor cannot be whole when the threads have ended.
    base = checkpoint("base", w=np.zeros((4096, 2048), np.float32))
    experts = [f"experts.e{i}={base}" for i in range(3)]
    words = ["merge", f"base={base}", *experts, "method=ties", "--out", "out"]
    command = [sys.executable, "-c", INTERRUPTED, *words]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "interrupted while out.partial was there" in ended.stdout
    assert "Traceback" not in ended.stderr
    assert "Stopped" in ended.stderr
    assert ended.returncode == 130
    assert not (tmp_path / "out").exists()
    monkeypatch.chdir(tmp_path)
    assert cli(*words)[0] == 0
    assert (tmp_path / "out").is_dir()
    assert not (tmp_path / "out.partial").exists()


def test_inspect_says_what_models_are_and_whether_they_fit(cli: Cli, checkpoint: Write) -> None:
    base, math = checkpoint("base"), checkpoint("math", w=np.full((3, 4), 2.0, np.float32))
    code, out, _ = cli("inspect", base, math)
    assert code == 0
    assert "They fit." in out
    odd = checkpoint("odd", b=None)
    code, out, _ = cli("inspect", base, odd, "--norms")
    assert code == 2
    assert "odd" in out
    assert "has no layers.0.b" in out
    assert "They fit." not in out
    code, out, _ = cli("inspect", base, odd, "--json")
    found = json.loads(out)
    assert code == 2
    assert found["facts"][0]["parameters"] == 16
    assert any("has no layers.0.b" in line for line in found["misfits"])


def test_folders_that_were_made_for_a_merge_that_fails_are_removed(cli: Cli, checkpoint: Write, tmp_path: Path) -> None:
    bad = checkpoint("bad", w=np.full((3, 4), np.nan, np.float32))
    place = tmp_path / "new" / "deep" / "out"
    code, _, err = cli("merge", f"base={checkpoint('base')}", f"experts.x={bad}", "method=ties", "--out", place)
    assert (code, "holds nan" in err) == (2, True)
    assert not (tmp_path / "new").exists()


def test_one_is_said_in_the_singular(cli: Cli, checkpoint: Write, tmp_path: Path) -> None:
    given = [f"base={checkpoint('base')}", f"experts.x={checkpoint('x')}"]
    _, out, _ = cli("merge", *given, "method=task_arithmetic", "--out", tmp_path / "one")
    assert "Merged 1 expert by task_arithmetic" in out
    assert "(1 pass over the inputs)" in out
    _, out, _ = cli("merge", *given, f"experts.y={checkpoint('y')}", "method=ties", "--out", tmp_path / "two")
    assert "Merged 2 experts by ties" in out
    assert "passes over the inputs)" in out


def test_inspect_measures_distances_on_request(cli: Cli, checkpoint: Write) -> None:
    base = checkpoint("base")
    moved = checkpoint("moved", w=np.arange(12, dtype=np.float32).reshape(3, 4) + 1)
    _, out, _ = cli("inspect", base, moved, "--norms", "--json")
    distances = json.loads(out)["distances"][str(moved)]
    assert distances["delta"] == pytest.approx(np.sqrt(12))
    assert distances["base"] == pytest.approx(np.sqrt(506 + 3))
