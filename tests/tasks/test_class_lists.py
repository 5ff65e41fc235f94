"""Class names in the order of the labels: a changed or moved name makes another digest."""

import hashlib

import pytest

from fusionbench.errors import ConfigError
from fusionbench.tasks import TaskSpec
from fusionbench.tasks.class_lists import agreed_class_names, class_list, class_lists

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


LOOKS = ("", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good ")
CIFAR = [
    *(f"a {look}photo of a {{}}." for look in LOOKS), *(f"a photo of a {size} {{}}." for size in ("small", "big")),
    *(f"a {look}photo of the {{}}." for look in LOOKS), *(f"a photo of the {size} {{}}." for size in ("small", "big")),
]  # fmt: skip
# Of CLIP's own list of prompts, as arXiv:2212.04089 uses them.
TEMPLATES = {
    "sun397": ["a photo of a {}.", "a photo of the {}."],
    "stanford_cars": [
        "a photo of a {}.", "a photo of the {}.", "a photo of my {}.", "i love my {}!", "a photo of my dirty {}.",
        "a photo of my clean {}.", "a photo of my new {}.", "a photo of my old {}.",
    ],
    "resisc45": [
        f"{where} {what} of {article}{{}}." for where in ("satellite", "aerial")
        for what in ("imagery", "photo", "view") for article in ("", "a ", "the ")
    ],
    "eurosat": [f"a centered satellite photo of {article}{{}}." for article in ("", "a ", "the ")],
    "svhn": ['a photo of the number: "{}".'],
    "gtsrb": [f'a {how} photo of a "{{}}" traffic sign.' for how in ("zoomed in", "centered", "close up")],
    "mnist": ['a photo of the number: "{}".'],
    "dtd": [f"a photo of {article} {{}} {what}." for article in ("a", "the")
            for what in ("texture", "pattern", "thing", "object")],
    "oxford_flowers102": ["a photo of a {}, a type of flower."],
    "pcam": ["this is a photo of {}"],
    "fer2013": [
        "a photo of a {} looking face.", "a photo of a face showing the emotion: {}.", "a photo of a face looking {}.",
        "a face that looks {}.", "they look {}.", "look at how {} they are.",
    ],
    "oxford_iiit_pet": ["a photo of a {}, a type of pet."],
    "stl10": ["a photo of a {}.", "a photo of the {}."],
    "cifar100": CIFAR,
    "cifar10": CIFAR,
    "food101": ["a photo of {}, a type of food."],
    "fashion_mnist": ["a photo of a {}.", "a photo of the {}."],
    "emnist_letters": ['a photo of the digit character: "{}".'],
    "kmnist": ["a photo of the character {}."],
    "rendered_sst2": ["a {} review of a movie."],
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_templates_are_the_specifications_strings(name):
    # Their order has no meaning: features of prompts are averaged.
    assert sorted(class_list(name).templates) == sorted(TEMPLATES[name])


def test_a_task_names_a_list_instead_of_copying_it():
    spec = TaskSpec.read({"dataset": "org/x", "class_names": "eurosat", "templates": "eurosat"}, "The task")
    assert spec.class_names == class_list("eurosat").class_names
    assert spec.class_names[2] == "brushland or shrubland"
    assert len(spec.templates) == 3
    with pytest.raises(ConfigError, match=r"no list of classes 'eurosta'. Did you mean eurosat"):
        TaskSpec.read({"dataset": "org/x", "class_names": "eurosta"}, "The task")


def test_a_list_wins_over_the_names_that_the_data_set_brings():
    assert agreed_class_names("pets", "org/pets", ("a cat", "a dog"), ("cat", "dog")) == ("a cat", "a dog")
    assert agreed_class_names("pets", "org/pets", None, ("cat", "dog")) == ("cat", "dog")
    assert agreed_class_names("pets", "org/pets", ("cat",), None) == ("cat",)
    assert agreed_class_names("pets", "org/pets", ("Big cat", "dog"), ("big_cat", "dog")) == ("Big cat", "dog")


@pytest.mark.parametrize(
    ("listed", "brought", "message"),
    [
        (None, None, "org/pets brings no class names. List them in class_names of the task pets"),
        (("cat",), ("cat", "dog"), "The task pets lists 1 class names, org/pets has 2 classes: cat, dog"),
        (
            ("cat", "big dog", "fox"),
            ("Cat", "fox", "big_dog"),
            "class 1 is 'big dog' in the list and 'fox'",
        ),
    ],
)
def test_names_that_contradict_the_data_sets_own_are_refused(listed, brought, message):
    with pytest.raises(ConfigError, match=message):
        agreed_class_names("pets", "org/pets", listed, brought)
