import json
import struct
import threading
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from writing import CONTENT, SPECS, VALUES, left, same, write

from checkpoints import read_model
from fusionbench.weights.headers import TensorSpec
from fusionbench.weights.safetensors import open_safetensors
from fusionbench.weights.writer import CheckpointWriter


def test_what_is_written_is_what_the_safetensors_library_reads(tmp_path):
    write(tmp_path / "out")
    assert same(read_model(tmp_path / "out"), VALUES)
    assert left(tmp_path) == ["out"]
    assert left(tmp_path / "out") == ["model.safetensors"]


def test_the_header_carries_the_metadata_and_says_which_library_loads_it(tmp_path):
    write(tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "recipe": "ties"}


def test_tensors_lie_in_the_given_order_and_begin_at_multiples_of_eight(tmp_path):
    write(tmp_path / "out")
    raw = (tmp_path / "out" / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    assert length % 8 == 0
    assert [(n, header[n]["data_offsets"]) for n in ("a", "b", "c")] == [
        ("a", [0, 24]),
        ("b", [24, 32]),
        ("c", [32, 40]),
    ]


def test_tensors_begin_at_a_multiple_of_eight_however_long_the_header_is(tmp_path):
    for length in range(9):
        with CheckpointWriter(tmp_path / str(length), SPECS, metadata={"text": "x" * length}):
            pass
        raw = (tmp_path / str(length) / "model.safetensors").read_bytes()
        assert struct.unpack("<Q", raw[:8])[0] % 8 == 0
        assert read_model(tmp_path / str(length)).keys() == VALUES.keys()


def test_the_same_content_gives_the_same_bytes(tmp_path):
    write(tmp_path / "one")
    write(tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()


def test_names_outside_ascii_are_written_as_they_are(tmp_path):
    specs = [TensorSpec('größe."x"\\', "U8", (1,))]
    with CheckpointWriter(tmp_path / "out", specs, metadata={"ä": "日本"}) as writer:
        writer.write(specs[0].name, b"\5")
    assert read_model(tmp_path / "out")[specs[0].name].tolist() == [5]


def test_entries_may_come_in_pieces_and_in_any_order(tmp_path):
    with CheckpointWriter(tmp_path / "out", SPECS, metadata={}) as writer:
        writer.write("c", CONTENT["c"])
        writer.write("a", CONTENT["a"][16:], start=4)
        writer.write("b", memoryview(CONTENT["b"]))
        writer.write("a", CONTENT["a"][:16])
    assert same(read_model(tmp_path / "out"), VALUES)


def test_any_thread_may_write(tmp_path):
    size = 64
    specs = [TensorSpec(f"t{i}", "U8", (size,)) for i in range(8)]
    with CheckpointWriter(tmp_path / "out", specs, metadata={}, shard_bytes=200) as writer:

        def fill(number: int) -> None:
            for start in range(size):
                writer.write(f"t{number}", bytes([number]), start)

        threads = [threading.Thread(target=fill, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: set(t.tolist()) for n, t in read_model(tmp_path / "out").items()} == {f"t{i}": {i} for i in range(8)}


def test_tensors_without_entries_and_models_without_tensors_are_written(tmp_path):
    specs = [TensorSpec("none", "F32", (0, 3)), TensorSpec("one", "F32", (1,))]
    with CheckpointWriter(tmp_path / "out", specs, metadata={}) as writer:
        writer.write("none", b"")
        writer.write("one", struct.pack("<f", 2.5))
    found = read_model(tmp_path / "out")
    assert found["none"].shape == (0, 3)
    assert found["one"].tolist() == [2.5]
    with CheckpointWriter(tmp_path / "empty", [], metadata={}):
        pass
    assert read_model(tmp_path / "empty") == {}


def test_shards_hold_no_more_than_their_bytes_and_an_index_tells_where_everything_is(tmp_path):
    write(tmp_path / "out", shard_bytes=32)
    assert left(tmp_path / "out") == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    assert index == {"metadata": {"total_size": 40}, "weight_map": {"a": first, "b": first, "c": second}}
    assert same(read_model(tmp_path / "out"), VALUES)
    assert set(open_safetensors("m", tmp_path / "out").specs) == {"a", "b", "c"}


def test_a_tensor_larger_than_a_shard_has_a_file_of_its_own(tmp_path):
    write(tmp_path / "out", shard_bytes=1)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    assert same(read_model(tmp_path / "out"), VALUES)


@pytest.mark.parametrize("shard_bytes", [5_000, 5_000_000])
def test_transformers_loads_what_is_written(shard_bytes, tmp_path):
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    state = model.state_dict()
    specs = [TensorSpec(name, "F32", tuple(tensor.shape)) for name, tensor in state.items()]
    with CheckpointWriter(
        tmp_path / "out", specs, metadata={}, shard_bytes=shard_bytes, finish=config.save_pretrained
    ) as writer:
        for name, tensor in state.items():
            writer.write(name, tensor.numpy().tobytes())
    loaded, report = transformers.BertForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert same(dict(loaded.state_dict()), dict(state))


def test_other_files_are_there_when_the_folder_appears(tmp_path):
    def finish(partial: Path) -> None:
        assert not (tmp_path / "out").exists()
        (partial / "config.json").write_text("{}")

    write(tmp_path / "out", finish=finish)
    assert left(tmp_path / "out") == ["config.json", "model.safetensors"]


def test_nothing_is_touched_before_the_writer_is_entered(tmp_path):
    CheckpointWriter(tmp_path / "new" / "out", SPECS, metadata={})
    assert left(tmp_path) == []


def test_folders_above_are_made(tmp_path):
    write(tmp_path / "x" / "y" / "out")
    assert left(tmp_path / "x" / "y") == ["out"]


def test_the_bytes_of_all_tensors_are_counted(tmp_path):
    assert CheckpointWriter(tmp_path / "out", SPECS, metadata={}).total_bytes == 40
