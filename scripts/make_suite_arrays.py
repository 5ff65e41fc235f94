"""Make the image arrays of the offline suites (src/fusionbench/suites/data/*.npz) from Debian and npm packages.

    apt-get download dataset-fashion-mnist fonts-aenigma     # dpkg -x each .deb into a folder, or install them
    npm install emoji-datasource-google@16.0.0 @rapideditor/mapillary_sprite_source@1.8.0
    pip install cairosvg numpy pillow                        # an environment of its own; fusionbench is not needed
    python scripts/make_suite_arrays.py \
        --fashion  .../usr/share/datasets/fashion-mnist \
        --fonts    .../usr/share/fonts/truetype/aenigma \
        --emoji    .../node_modules/emoji-datasource-google \
        --signs    .../node_modules/@rapideditor/mapillary_sprite_source/package_signs \
        --out      src/fusionbench/suites/data

The same packages give the same files byte for byte. Origin and licences: src/fusionbench/suites/data/NOTICE.md.
"""

import argparse
import gzip
import io
import json
import re
from collections.abc import Iterable
from pathlib import Path

import cairosvg
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Bytes = NDArray[np.uint8]

# Coat and shirt are left out: at 28 pixels they can hardly be told from pullover and T-shirt.
FASHION_LABELS = (0, 1, 2, 3, 5, 7, 8, 9)
FASHION_PER_CLASS = 800

ARTWORK_SIZE = 48
OTHER_EMOJI = 300
OTHER_SIGNS = 150
CAPTION_WORDS = 6

# Class name in the suite → name in the package.
EMOJI = {
    "tiger": "tiger face",
    "rabbit": "rabbit face",
    "elephant": "elephant",
    "fox": "fox face",
    "panda": "panda face",
    "zebra": "zebra face",
    "grapes": "grapes",
    "watermelon": "watermelon",
    "banana": "banana",
    "strawberry": "strawberry",
    "hamburger": "hamburger",
    "pretzel": "pretzel",
    "croissant": "croissant",
    "bus": "bus",
    "tractor": "tractor",
    "ambulance": "ambulance",
    "tulip": "tulip",
    "sunflower": "sunflower",
    "rose": "rose",
    "football": "soccer ball",
}
SIGNS = {
    "stop": "regulatory--stop--g1",
    "yield": "regulatory--yield--g1",
    "no entry": "regulatory--no-entry--g1",
    "priority road": "regulatory--priority-road--g1",
    "keep right": "regulatory--keep-right--g1",
    "roundabout": "regulatory--roundabout--g1",
    "no overtaking": "regulatory--no-overtaking--g1",
    "no parking": "regulatory--no-parking--g1",
    "no stopping": "regulatory--no-stopping--g1",
    "speed limit": "regulatory--maximum-speed-limit-50--g1",
    "pedestrians crossing": "information--pedestrians-crossing--g1",
    "children": "warning--children--g2",
    "roadworks": "warning--roadworks--g1",
    "traffic signals": "warning--traffic-signals--g1",
    "crossroads": "warning--crossroads--g3",
    "wild animals": "warning--wild-animals--g3",
    "chevron right": "complementary--chevron-right--g1",
    "slippery road": "warning--slippery-road-surface--g1",
    "bicycles only": "regulatory--bicycles-only--g1",
    "curve right": "warning--curve-right--g1",
}
# People, text and arrows teach little about the twenty classes and crowd the vocabulary.
EMOJI_CATEGORIES_LEFT_OUT = {"Component", "Flags", "People & Body", "Symbols"}

LETTERS = "ABCDEFGHIJ"
FONTS = 120
GLYPH_SIZE = 28
GLYPH_INK = 24


def spread(items: list[str], count: int) -> list[str]:
    """`count` items at equal distances."""
    return [items[(i * len(items)) // count] for i in range(count)]


def apart(captions: Iterable[str], taken: set[str]) -> list[str]:
    """The captions that hold no class name: the mixture must not teach the class words."""
    return [caption for caption in captions if caption and not any(name in caption for name in taken)]


def words(text: str, most: int) -> str:
    return " ".join(re.sub("[^a-z0-9 ]", " ", text.lower()).split()[:most])


def read_idx(path: Path, header: int) -> Bytes:
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def fashion(folder: Path) -> dict[str, NDArray[np.generic]]:
    images = read_idx(folder / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    labels = read_idx(folder / "train-labels-idx1-ubyte.gz", 8)
    chosen = np.sort(np.concatenate([np.flatnonzero(labels == k)[:FASHION_PER_CLASS] for k in FASHION_LABELS]))
    return {"images": images[chosen], "labels": np.searchsorted(FASHION_LABELS, labels[chosen]).astype(np.uint8)}


def square(image: Image.Image) -> Bytes:
    """RGBA artwork scaled into a transparent square, aspect ratio kept, transparent pixels black."""
    image = image.convert("RGBA")
    factor = ARTWORK_SIZE / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    canvas = Image.new("RGBA", (ARTWORK_SIZE, ARTWORK_SIZE))
    canvas.paste(
        image.resize(size, Image.Resampling.LANCZOS), ((ARTWORK_SIZE - size[0]) // 2, (ARTWORK_SIZE - size[1]) // 2)
    )
    pixels = np.array(canvas)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def artwork(classes: Iterable[str], drawn: list[Bytes], others: list[str], rest: list[Bytes]) -> dict[str, NDArray]:
    return {
        "class_names": np.array(list(classes)),
        "class_images": np.stack(drawn),
        "other_names": np.array(others),
        "other_images": np.stack(rest),
    }


def emoji(folder: Path) -> dict[str, NDArray]:
    entries = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    entries = [e for e in entries if e["has_img_google"] and e["category"] not in EMOJI_CATEGORIES_LEFT_OUT]
    entries.sort(key=lambda e: (e["category"], e["sort_order"]))
    files = {e["name"].lower(): folder / "img" / "google" / "64" / e["image"] for e in entries}
    taken = set(EMOJI) | set(EMOJI.values())
    by_caption = {words(name, CAPTION_WORDS): name for name in files}
    others = spread(apart(by_caption, taken), OTHER_EMOJI)

    def draw(name: str) -> Bytes:
        with Image.open(files[name]) as image:
            return square(image)

    return artwork(EMOJI, [draw(n) for n in EMOJI.values()], others, [draw(by_caption[c]) for c in others])


def signs(folder: Path) -> dict[str, NDArray]:
    first_design: dict[str, str] = {}
    for path in sorted(folder.glob("*.svg")):
        first_design.setdefault(words(path.stem.split("--")[1], CAPTION_WORDS), path.stem)
    taken = set(SIGNS) | {words(design.split("--")[1], CAPTION_WORDS) for design in SIGNS.values()}
    others = spread(apart(first_design, taken), OTHER_SIGNS)

    def draw(design: str) -> Bytes:
        png = cairosvg.svg2png(bytestring=(folder / f"{design}.svg").read_bytes(), output_height=4 * ARTWORK_SIZE)
        with Image.open(io.BytesIO(png)) as image:
            return square(image)

    return artwork(SIGNS, [draw(d) for d in SIGNS.values()], others, [draw(first_design[c]) for c in others])


def glyph(font: ImageFont.FreeTypeFont, letter: str) -> Bytes | None:
    """One letter, bright on black, its longer side 24 of 28 pixels; None where the font has no fit shape for it."""
    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    width, height = right - left, bottom - top
    if not (6 <= width <= 200 and 10 <= height <= 200):
        return None
    drawn = Image.new("L", (width + 4, height + 4))
    ImageDraw.Draw(drawn).text((2 - left, 2 - top), letter, fill=255, font=font)
    factor = GLYPH_INK / max(drawn.size)
    size = (max(1, round(drawn.width * factor)), max(1, round(drawn.height * factor)))
    canvas = Image.new("L", (GLYPH_SIZE, GLYPH_SIZE))
    canvas.paste(
        drawn.resize(size, Image.Resampling.LANCZOS), ((GLYPH_SIZE - size[0]) // 2, (GLYPH_SIZE - size[1]) // 2)
    )
    return np.array(canvas)


def all_fonts(folder: Path) -> dict[str, Bytes]:
    """Family name → (10, 28, 28), for the fonts that have ten different shapes for the ten letters."""
    shapes: dict[str, Bytes] = {}
    for path in sorted(folder.glob("*.ttf")):
        font = ImageFont.truetype(path, 44, layout_engine=ImageFont.Layout.BASIC)
        letters = [glyph(font, letter) for letter in LETTERS]
        drawn = [letter for letter in letters if letter is not None]
        if len(drawn) == len(LETTERS) and len({letter.tobytes() for letter in drawn}) == len(LETTERS):
            shapes[(font.getname()[0] or path.stem).removesuffix(" BRK")] = np.stack(drawn)
    return shapes


def regularity(shapes: Bytes) -> NDArray[np.float64]:
    """How well each font agrees with the mean shape of each letter: letters recognised, then mean correlation."""
    flat = shapes.reshape(*shapes.shape[:2], -1).astype(np.float64)
    flat -= flat.mean(axis=2, keepdims=True)
    flat /= np.linalg.norm(flat, axis=2, keepdims=True)
    templates = flat.mean(axis=0)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    agreement = np.einsum("flp,kp->flk", flat, templates)
    recognised = (agreement.argmax(axis=2) == np.arange(len(LETTERS))).mean(axis=1)
    own: NDArray[np.float64] = np.einsum("fll->fl", agreement).mean(axis=1)
    return recognised + own / 100


def glyphs(folder: Path) -> dict[str, NDArray]:
    """The most regular font of each family, the 120 most regular families; most regular first.

    One font a family: variants (outline, slanted, thick) of one design on both sides of a split would be a leak.
    """
    shapes = all_fonts(folder)
    score = dict(zip(shapes, regularity(np.stack(list(shapes.values()))), strict=True))
    chosen: dict[str, str] = {}
    for name in sorted(shapes, key=lambda n: -score[n]):
        chosen.setdefault(re.sub("[^a-z0-9]", "", name.lower())[:5], name)
    names = list(chosen.values())[:FONTS]
    print(
        f"fonts: {len(shapes)} complete, {len(chosen)} families, scores {score[names[0]]:.3f}..{score[names[-1]]:.3f}"
    )
    return {"fonts": np.array(names), "images": np.stack([shapes[n] for n in names])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fashion", "fonts", "emoji", "signs", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    folders = parser.parse_args()
    made = {
        "fashion": fashion(folders.fashion),
        "emoji": emoji(folders.emoji),
        "signs": signs(folders.signs),
        "glyphs": glyphs(folders.fonts),
    }
    folders.out.mkdir(parents=True, exist_ok=True)
    for name, arrays in made.items():
        path = folders.out / f"{name}.npz"
        np.savez_compressed(path, allow_pickle=False, **arrays)
        print(path, path.stat().st_size, {key: value.shape for key, value in arrays.items()})


if __name__ == "__main__":
    main()
