"""A folder of pictures is a data set: the same one everywhere, with the pixels that a server shows a network."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image, ImageDraw

from pictures import Layout, decode
from scripts.datasets import load
from scripts.datasets.download import DatasetError
from scripts.train import main


def draw(path: Path, size: tuple[int, int], mode: str = "RGB", mark: int = 0) -> Path:
    """A picture with a ground and some ink; `mark` makes it differ from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grounds: dict[str, int | tuple[int, ...]] = {"RGB": (200, 30, 90), "L": 200, "RGBA": (0, 0, 0, 0)}
    inks: dict[str, int | tuple[int, ...]] = {"RGB": (10, 250, mark), "L": mark, "RGBA": (mark, 20, 20, 200)}
    image, ink = Image.new(mode, size, grounds[mode]), inks[mode]
    ImageDraw.Draw(image).rectangle([size[0] // 4, size[1] // 3, size[0] // 2, size[1] // 2], fill=ink)
    image.save(path)
    return path


def fill(folder: Path, size: tuple[int, int] = (20, 20), count: int = 10) -> Path:
    for number, name in enumerate(("cat", "dog")):
        for index in range(count):
            draw(folder / name / f"{index}.png", size, mark=100 * number + index)
    return folder


def test_subfolders_are_classes_and_every_fifth_picture_is_for_testing(tmp_path):
    folder = fill(tmp_path / "pets")
    (folder / "cat" / "notes.txt").write_text("no picture")
    (folder / ".cache").mkdir()
    data = load("folder", folder)
    assert (data.name, data.labels, data.shape) == ("pets", ("cat", "dog"), (20, 20, 3))
    assert np.bincount(data.y_train).tolist() == [8, 8]
    assert np.bincount(data.y_test).tolist() == [2, 2]
    marks = [picture[8, 8, 2] for picture in (*data.x_train, *data.x_test)]
    classes = [*data.y_train, *data.y_test]
    assert sorted(zip(marks, classes, strict=True)) == [(100 * c + i, c) for c in (0, 1) for i in range(10)]
    assert len(set(data.y_train[-4:])) == 2  # mixed, since the validation split is the end


def test_the_same_files_elsewhere_are_the_same_data_set(tmp_path):
    one, other = load("folder", fill(tmp_path / "one" / "pets")), load("folder", fill(tmp_path / "other" / "pets"))
    np.testing.assert_array_equal(one.x_train, other.x_train)
    np.testing.assert_array_equal(one.y_test, other.y_test)


@pytest.mark.parametrize(
    ("size", "expected"), [((12, 30), (30, 12, 3)), ((8, 20), (64, 64, 3)), ((65, 20), (64, 64, 3))]
)
def test_small_pictures_of_one_size_are_taken_as_they_are(tmp_path, size, expected):
    assert load("folder", fill(tmp_path, size, count=5)).shape == expected


def test_a_network_is_trained_on_what_a_server_would_show_it(tmp_path):
    """The server's own way from a file to an array, for each kind of picture."""
    for name in ("a", "b"):
        for index, (size, mode) in enumerate(
            [((90, 40), "RGB"), ((33, 70), "L"), ((50, 50), "RGBA"), ((64, 64), "RGB"), ((300, 200), "RGBA")]
        ):
            draw(tmp_path / name / f"{index}.png", size, mode, mark=40 * index)
    turned = Image.open(draw(tmp_path / "a" / "turned.png", (80, 20), mark=7))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "a" / "turned.jpg", exif=exif)
    data = load("folder", tmp_path)
    layout = Layout(64, 64, 3, channels_last=True)
    shown = {decode(path.read_bytes(), layout, 10**6)[0].tobytes() for path in tmp_path.rglob("*.*")}
    assert {picture.tobytes() for picture in (*data.x_train, *data.x_test)} == shown
    assert len(shown) == 7  # both classes have the same five pictures


def test_a_folder_that_is_no_data_set_says_what_is_expected(tmp_path):
    with pytest.raises(DatasetError, match=r"--data-dir is needed; expected a folder with one subfolder"):
        load("folder")
    with pytest.raises(DatasetError, match=r"nowhere: no such folder"):
        load("folder", tmp_path / "nowhere")
    folder = fill(tmp_path / "pets", count=5)
    (folder / "owl").mkdir()
    with pytest.raises(DatasetError, match=r"owl: 0 pictures; expected at least 5"):
        load("folder", folder)
    with pytest.raises(DatasetError, match=r"cat: 0 subfolders; expected one for each class"):
        load("folder", folder / "cat")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(lambda _: b"no picture", "cannot identify"), (lambda whole: whole[:-30], "truncated")],
)
def test_a_damaged_picture_is_named(tmp_path, spoil, why):
    folder = fill(tmp_path / "pets", count=5)
    (folder / "dog" / "bad.png").write_bytes(spoil((folder / "cat" / "0.png").read_bytes()))
    with pytest.raises(DatasetError, match=rf"bad.png: not readable as a picture: .*{why}"):
        load("folder", folder)


def test_of_sixteen_bits_the_upper_ones_count(tmp_path):
    folder = fill(tmp_path / "pets", count=5)
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(folder / "dog" / "deep.png")
    data = load("folder", folder)
    grey = round(40_000 / 65_535 * 255)
    assert any((picture == grey).all() for picture in (*data.x_train, *data.x_test))


def test_the_reference_network_is_trained_on_a_folder_by_one_command(tmp_path, capsys):
    run, pets = tmp_path / "run", fill(tmp_path / "pets", count=10)
    command = ["--recipe", "quick", "--epochs", "1", "--dataset", "folder", "--out", str(run)]
    assert main([*command, "--data-dir", str(pets)]) == 0
    assert keras.models.load_model(run / "model.keras", compile=False).input_shape == (None, 20, 20, 3)
    assert json.loads((run / "config.json").read_text())["dataset"] == "folder"
    assert main([*command[:-1], str(tmp_path / "other")]) == 2
    assert "--data-dir is needed" in capsys.readouterr().err
