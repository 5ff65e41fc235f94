"""`convert`, and `merge -r` of a peer's file, by the command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from safetensors.numpy import load_file

Cli = Callable[..., tuple[int, str, str]]
Write = Callable[..., Path]


def test_a_recipe_of_mergekit_is_printed_in_our_words_and_merges_to_the_same(
    cli: Cli, checkpoint: Write, tmp_path: Path
) -> None:
    base = checkpoint("base")
    math = checkpoint("math", w=np.full((3, 4), 2.0, np.float32))
    theirs, ours = tmp_path / "theirs.yml", tmp_path / "ours.yml"
    theirs.write_text(
        f"merge_method: task_arithmetic\nbase_model: {base}\nmodels: [{{model: {math}, parameters: {{weight: 0.5}}}}]\n"
    )
    code, out, err = cli("convert", theirs)
    assert code == 0
    assert "note: merge_method: task_arithmetic" in err
    written = yaml.safe_load(out)
    assert written["experts"] == {"math": str(math)}
    assert written["method"]["weights"] == 0.5
    assert not {"runtime", "suite", "space"} & {*written}
    ours.write_text(out)
    for file, folder in ((theirs, "one"), (ours, "two")):
        assert cli("merge", "-r", file, "--out", tmp_path / folder)[0] == 0
    one, two = (load_file(tmp_path / folder / "model.safetensors") for folder in ("one", "two"))
    np.testing.assert_array_equal(one["layers.0.w"], two["layers.0.w"])
    np.testing.assert_allclose(one["layers.0.w"], (np.arange(12).reshape(3, 4) + 2) / 2)


def test_a_command_line_of_fusion_bench_is_printed_in_our_words(cli: Cli) -> None:
    code, out, _ = cli("convert", "method=ties_merging", "method.threshold=30", "experts.a=x", "base=b")
    assert code == 0
    assert yaml.safe_load(out)["method"]["density"] == 0.3


def test_several_recipes_are_printed_and_merged_one_after_the_other(
    cli: Cli, checkpoint: Write, tmp_path: Path
) -> None:
    model = checkpoint("m", config={"num_hidden_layers": 1})
    file, out = tmp_path / "theirs.yml", tmp_path / "out"
    part = "{{sources: [{{model: {}, layer_range: [0, {}]}}]}}".format
    file.write_text(
        f"name: two\nmerge_method: passthrough\nslices: [{part(model, 1)}, {part(model, 1)}]\n---\n"
        f"merge_method: passthrough\nslices: [{part('two', 2)}, {part('two', 1)}]\n"
    )
    code, said, _ = cli("convert", file)
    assert code == 0
    assert [document.get("name") for document in yaml.safe_load_all(said)] == ["two", None]
    code, said, err = cli("merge", "-r", file, "--out", out, "--dry-run")
    assert code == 0
    assert "the output is planned when two is made" in err
    assert not out.exists()
    assert cli("merge", "-r", file, "--out", out)[0] == 0
    assert {name for name in load_file(out / "model.safetensors") if name.endswith(".w")} == {
        f"layers.{n}.w" for n in range(3)
    }
    assert (tmp_path / "out.stages" / "two" / "config.json").is_file()


def test_what_cannot_be_followed_is_refused_with_its_key(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "theirs.yml"
    file.write_text("merge_method: ties\nbase_model: b\nmodels: [{model: x}]\nparameters: {weight: 1, densty: 2}\n")
    code, out, err = cli("convert", file)
    assert (code, out) == (2, "")
    assert "parameters.densty is not a key of mergekit's ties; did you mean density?" in err
