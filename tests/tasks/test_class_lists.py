"""Class names in the order of the labels: a changed or moved name makes another digest."""

import hashlib

import pytest

from fusionbench.errors import ConfigError
from fusionbench.tasks import TaskSpec
from fusionbench.tasks.class_lists import class_list, class_lists

# Number of classes and of templates, and the first 16 digits of the SHA-256 of the names joined by line breaks.
KNOWN = {
    "sun397": (397, 2, "dd1277b1cfcf09ba"),
    "stanford_cars": (196, 8, "93d089469409bbd0"),
    "resisc45": (45, 18, "3c2177013901f0ef"),
    "eurosat": (10, 3, "ee2e41b9973e7206"),
    "svhn": (10, 1, "29dd21f55e4611d4"),
    "gtsrb": (43, 3, "953036bc5aedbe6b"),
    "mnist": (10, 1, "29dd21f55e4611d4"),
    "dtd": (47, 8, "681d23b9cd3c2ede"),
    "oxford_flowers102": (102, 1, "f5a3bda044faf55b"),
    "pcam": (2, 1, "27352df7ede1fd87"),
    "fer2013": (7, 6, "0fece1ddf1a3ebf7"),
    "oxford_iiit_pet": (37, 1, "8e35ab44db27d55a"),
    "stl10": (10, 2, "08b234ce7b11dbd3"),
    "cifar100": (100, 18, "3e2584150e2896e2"),
    "cifar10": (10, 18, "bb3914949cecedee"),
    "food101": (101, 1, "9c0eeb5a368baacb"),
    "fashion_mnist": (10, 2, "249370ed4284a97d"),
    "emnist_letters": (26, 1, "cfa4f846a6dbeb24"),
    "kmnist": (10, 1, "420ad158d8f0775d"),
    "rendered_sst2": (2, 1, "2e61aa7558046c2c"),
}


def test_the_lists_are_the_published_ones():
    found = {
        name: (
            len(of.class_names),
            len(of.templates),
            hashlib.sha256("\n".join(of.class_names).encode()).hexdigest()[:16],
        )
        for name, of in class_lists().items()
    }
    assert found == KNOWN


@pytest.mark.parametrize(
    ("name", "templates"),
    [
        ("svhn", ['a photo of the number: "{}".']),
        ("pcam", ["this is a photo of {}"]),
        ("emnist_letters", ['a photo of the digit character: "{}".']),
        ("oxford_flowers102", ["a photo of a {}, a type of flower."]),
        ("gtsrb", [f'a {how} photo of a "{{}}" traffic sign.' for how in ("zoomed in", "centered", "close up")]),
        (
            "eurosat",
            ["a centered satellite photo of {}.", "a centered satellite photo of a {}.",
             "a centered satellite photo of the {}."],
        ),
    ],
)  # fmt: skip
def test_templates_are_the_specifications_strings(name, templates):
    assert list(class_list(name).templates) == templates


def test_a_task_names_a_list_instead_of_copying_it():
    spec = TaskSpec.read({"dataset": "org/x", "class_names": "eurosat", "templates": "eurosat"}, "The task")
    assert spec.class_names == class_list("eurosat").class_names
    assert spec.class_names[2] == "brushland or shrubland"
    assert len(spec.templates) == 3
    with pytest.raises(ConfigError, match=r"no list of classes 'eurosta'. Did you mean eurosat"):
        TaskSpec.read({"dataset": "org/x", "class_names": "eurosta"}, "The task")
