"""Characters as people draw and photograph them come out as the training set has them."""

import io

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pictures import Layout, decode, frame
from tests.service.bundles import Array
from tests.support import served_bundle

LAYOUT = Layout(28, 28, 1, channels_last=True)


@pytest.fixture(scope="module")
def characters() -> NDArray[np.uint8]:
    """Real pictures of the data set, uint8 [20, 28, 28]: those of the bundle's self-test."""
    with np.load(served_bundle() / "golden.npz") as golden:
        pictures: NDArray[np.uint8] = golden["image"].squeeze(-1)
    return pictures


def classes(pictures: Array) -> Array:
    session = onnxruntime.InferenceSession(served_bundle() / "model.onnx")
    (scores,) = session.run(None, {"image": np.ascontiguousarray(pictures[..., None])})
    best: Array = np.asarray(scores).argmax(axis=1)
    return best


def paper(character: Array, seed: int, *, contrast: float = 1.0, shade: float = 0.0, noise: float = 0.0) -> Array:
    """The character somewhere on a larger dark sheet; `shade` is the share of light that is lost across it."""
    rng = np.random.default_rng(seed)
    side, size = 320, int(rng.integers(90, 260))
    sheet = Image.new("L", (side, side))
    large = Image.fromarray(character).resize((size, size), Image.Resampling.BICUBIC)
    left, top = (int(v) for v in rng.integers(0, side - size, 2))
    sheet.paste(large, (left, top))
    y, x = np.mgrid[:side, :side] / side
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 - shade * (0.5 + (np.cos(angle) * (x - 0.5) + np.sin(angle) * (y - 0.5)) / np.sqrt(2))
    values = (1 - contrast * np.asarray(sheet) / 255) * light * 255 + rng.normal(0, noise, (side, side))
    sheet_of_paper: Array = values.clip(0, 255).astype(np.uint8)
    return sheet_of_paper


@pytest.mark.parametrize(
    ("light", "most"),
    [
        ({}, 12.0),
        ({"contrast": 0.8, "shade": 0.3, "noise": 3.0}, 14.0),
        ({"contrast": 0.6, "shade": 0.6, "noise": 6.0}, 18.0),
    ],
    ids=["drawn", "photographed", "photographed badly"],
)
def test_a_character_on_paper_comes_out_as_in_the_data_set(
    characters: Array, light: dict[str, float], most: float
) -> None:
    results = [frame(Image.fromarray(paper(c, seed, **light)), (28, 28)) for seed, c in enumerate(characters)]
    framed = np.stack([picture for picture, _ in results])

    assert all(inverted for _, inverted in results)
    assert np.abs(framed.astype(float) - characters).mean() < most  # of 255; against a shuffled set it is over 60
    assert (classes(framed) == classes(characters)).sum() >= len(characters) - 1  # one may lie between two classes


def test_chalk_on_a_board_is_not_inverted(characters: Array) -> None:
    board = 255 - (255 - paper(characters[0], 0, shade=0.4, noise=3.0)) // 2 - 100  # grey, with a lighter character

    picture, inverted = frame(ImageOps.invert(Image.fromarray(paper(characters[0], 0, noise=2.0))), (28, 28))
    also, dark = frame(Image.fromarray(board), (28, 28))

    assert (inverted, dark) == (False, True)
    assert np.abs(picture.astype(float) - characters[0]).mean() < 12
    assert np.abs(also.astype(float) - characters[0]).mean() < 18


def test_a_telephones_picture_is_turned_upright(characters: Array) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying; to be shown turned by 90 degrees clockwise
    lying = Image.fromarray(np.rot90(paper(characters[0], 3, contrast=0.8, shade=0.3, noise=2.0))).convert("RGB")
    file = io.BytesIO()
    lying.save(file, "JPEG", quality=85, exif=exif)

    picture, inverted = decode(file.getvalue(), LAYOUT, 1_000_000)

    assert inverted
    assert np.abs(picture[0, ..., 0].astype(float) - characters[0]).mean() < 14


def test_where_and_how_large_it_stands_does_not_matter(characters: Array) -> None:
    glyph = Image.fromarray(characters[3]).resize((112, 112), Image.Resampling.BICUBIC)
    pictures = []
    for place in [(0, 0), (150, 40), (87, 200)]:
        sheet = Image.new("L", (320, 320))
        sheet.paste(glyph, place)
        pictures.append(frame(sheet, (28, 28))[0].astype(float))

    assert np.abs(pictures[0] - pictures[1]).mean() < 6
    assert np.abs(pictures[0] - pictures[2]).mean() < 6


def test_proportions_stay() -> None:
    wide = np.zeros((100, 300), np.uint8)
    wide[40:60, 100:200] = 255  # five times as wide as high

    picture, _ = frame(Image.fromarray(wide), (28, 28))

    rows, columns = np.flatnonzero(picture.max(axis=1) > 127), np.flatnonzero(picture.max(axis=0) > 127)
    assert len(columns) == 28
    assert 5 <= len(rows) <= 7
    assert abs(rows.mean() - 13.5) <= 0.5


def test_what_is_wanted_of_the_polarity_is_done() -> None:
    ring = np.full((200, 200), 128, np.uint8)
    ring[60:140, 60:140], ring[80:120, 80:120] = 255, 0  # light around dark

    light, kept = frame(Image.fromarray(ring), (28, 28), "keep")
    dark, inverted = frame(Image.fromarray(ring), (28, 28), "invert")

    assert (kept, inverted) == (False, True)
    assert light[14, 14] == 0
    assert dark[14, 14] == 255


@pytest.mark.parametrize("level", [0, 97, 255])
def test_where_nothing_is_drawn_nothing_is_seen(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 1.0, (120, 90)).clip(0, 255).astype(np.uint8)

    for pixels in (np.full((120, 90), level, np.uint8), noise):
        assert frame(Image.fromarray(pixels), (28, 28))[0].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 1), (2, 3), (29, 28), (3000, 40)])
def test_pictures_of_any_shape_are_taken(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")

    picture, _ = decode(file.getvalue(), LAYOUT, 1_000_000)

    assert picture.shape == (1, 28, 28, 1)


def test_a_speck_of_dust_does_not_move_the_character(characters: Array) -> None:
    clean = paper(characters[5], 5)
    dusty = clean.copy()
    dusty[2:4, 310] = 0

    assert (
        np.abs(
            frame(Image.fromarray(clean), (28, 28))[0].astype(float) - frame(Image.fromarray(dusty), (28, 28))[0]
        ).mean()
        < 3
    )
