import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from fusionbench.errors import CheckpointError, ConfigError
from fusionbench.families.image_processor import OPENAI_MEAN, OPENAI_STD, ImageProcessor, read_image_processor
from fusionbench.weights.sources import open_source
from fusionbench.weights.tensors import TensorSource


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def source_with(folder: Path, **files: object) -> TensorSource:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    source = TensorSource("base", {})
    source.folder = folder
    return source


def test_bytes_become_numbers_by_hand() -> None:
    # 255 is 1: (1 - 0.5) / 0.25 = 2; 0 is 0: (0 - 0.5) / 0.25 = -2; 51 is 0.2: (0.2 - 0.5) / 0.25 = -1.2
    images = np.array([[[[255, 0, 51]]]], dtype=np.uint8)
    values = ImageProcessor(1, (0.5,) * 3, (0.25,) * 3).normalise(images)
    assert values.shape == (1, 3, 1, 1)
    torch.testing.assert_close(values.flatten(), torch.tensor([2.0, -2.0, -1.2]))
    assert images.tolist() == [[[[255, 0, 51]]]]


def test_an_image_of_any_size_becomes_bit_for_bit_what_hugging_faces_processor_makes(clip_folder: Path) -> None:
    from transformers import AutoImageProcessor

    picture = Image.fromarray(noise(50, 40))
    processor = read_image_processor(open_source(clip_folder), 32)
    prepared = processor.prepare(picture)
    assert prepared.dtype == np.uint8
    expected = AutoImageProcessor.from_pretrained(clip_folder, backend="pil")(picture, return_tensors="pt")
    assert torch.equal(processor.normalise(prepared[None]), expected["pixel_values"])


def test_a_grey_array_is_converted_and_one_of_the_models_size_is_taken_as_it_is(clip_folder: Path) -> None:
    processor = read_image_processor(open_source(clip_folder), 32)
    ready = noise(32, 32)
    assert processor.prepare(ready) is ready
    grey = processor.prepare(np.full((64, 64), 7, np.uint8))
    assert (grey == 7).all()
    assert grey.shape == (32, 32, 3)


def test_a_folder_without_settings_takes_openais_constants_and_a_central_square(tmp_path: Path) -> None:
    processor = read_image_processor(source_with(tmp_path), 4)
    assert (processor.mean, processor.std) == (OPENAI_MEAN, OPENAI_STD)
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200  # the middle four columns
    assert (processor.prepare(wide) == 200).all()


def test_settings_are_read_from_either_file_that_hugging_face_writes(tmp_path: Path) -> None:
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    first = read_image_processor(source_with(old, preprocessor_config=settings), 8)
    second = read_image_processor(source_with(new, processor_config={"image_processor": settings}), 8)
    assert first.mean == second.mean == (0.1, 0.2, 0.3)
    assert first.std == (1, 2, 3)
    assert first.key == second.key


def test_a_processor_that_does_not_normalise_only_scales_to_one(tmp_path: Path) -> None:
    processor = read_image_processor(source_with(tmp_path, preprocessor_config={"do_normalize": False}), 1)
    assert processor.normalise(np.full((1, 1, 1, 3), 255, np.uint8)).flatten().tolist() == [1, 1, 1]


def test_the_key_changes_with_every_setting_and_with_the_size(tmp_path: Path) -> None:
    keys = set()
    for number, resample in enumerate((2, 3)):
        folder = tmp_path / str(number)
        folder.mkdir()
        source = source_with(folder, preprocessor_config={"resample": resample})
        keys |= {read_image_processor(source, size).key for size in (8, 16)}
    assert len(keys) == 4


def test_another_scaling_is_refused_by_its_value(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base: its image processor scales values by 1; only 1/255"):
        read_image_processor(source_with(tmp_path, preprocessor_config={"do_rescale": False}), 8)


def test_settings_that_are_no_json_object_are_refused_with_their_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json is not JSON"):
        read_image_processor(source_with(tmp_path, preprocessor_config="{"), 8)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json should hold a JSON object, it holds a list"):
        read_image_processor(source_with(tmp_path, preprocessor_config=[1]), 8)


def test_a_processor_of_another_size_than_the_models_is_refused_with_both(clip_folder: Path) -> None:
    processor = read_image_processor(open_source(clip_folder), 48)
    with pytest.raises(ConfigError, match="makes images of 32×32 pixels, the model takes 48×48"):
        processor.prepare(noise(60, 60))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("kind", ["ViTImageProcessorPil", "ConvNextImageProcessorPil"])
def test_images_of_other_colours_are_converted_where_the_processor_does_not_by_itself(
    tmp_path: Path, kind: str, mode: str
) -> None:
    import transformers

    size = {"height": 32, "width": 32} if kind.startswith("ViT") else {"shortest_edge": 32}
    getattr(transformers, kind)(size=size).save_pretrained(tmp_path)
    processor = read_image_processor(source_with(tmp_path), 32)
    picture = Image.fromarray(noise(50, 40)).convert(mode)
    expected = processor.prepare(picture.convert("RGB"))
    assert expected.shape == (32, 32, 3)
    assert np.array_equal(processor.prepare(picture), expected)
