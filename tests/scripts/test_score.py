"""Batch scoring by a real server: one row for each picture, whatever happens on the way."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image

from scripts.datasets import load
from scripts.score import main
from tests.support import ROOT, fetch, png, served_bundle, serving

Images = NDArray[np.uint8]
RAY = pytest.param(
    ["--ray"],
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(not os.environ.get("FOLDSERVE_TEST_RAY"), reason="FOLDSERVE_TEST_RAY is not set"),
    ],
)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    served_bundle()
    with serving(ROOT / "models") as url:
        yield url


@pytest.fixture(scope="module")
def images() -> tuple[Images, list[int]]:
    """Sixty real pictures and the classes that the network as trained gives them; some are turned upside down."""
    with np.load(served_bundle() / "golden.npz") as golden:
        pictures, classes = golden["image"], golden["probabilities"].argmax(axis=1)
    return np.tile(pictures, (3, 1, 1, 1)), np.tile(classes, 3).tolist()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "scores.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def score(source: Path, out: Path, server: str, *more: str) -> int:
    return main([str(source), "--out", str(out), "--server", server, "--part", "16", "--batch", "8", *more])


def test_arrays_get_the_classes_of_the_network(server: str, images: tuple[Images, list[int]], tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=images[0])

    assert score(tmp_path / "images.npz", tmp_path / "out", server) == 0

    found = rows(tmp_path / "out")
    assert [row["name"] for row in found] == [str(index) for index in range(60)]
    assert [int(row["class"]) for row in found] == images[1]


def test_a_folder_gets_what_the_server_says_of_each_picture(
    server: str, images: tuple[Images, list[int]], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    for index in range(5):
        path = folder / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        large = Image.fromarray(255 - images[0][index, ..., 0]).resize((100, 100))
        large.save(path)
    (folder / "notes.txt").write_text("no picture", encoding="utf-8")

    assert score(folder, tmp_path / "out", server) == 0

    found = rows(tmp_path / "out")
    assert [row["name"] for row in found] == ["0/0.png", "0/2.png", "0/4.png", "1/1.png", "1/3.png"]
    for row in found:
        answer = fetch(f"{server}/predict", (folder / row["name"]).read_bytes(), "image/png")
        assert (int(row["class"]), row["label"]) == (answer["class"], answer["label"])


def test_parquet_in_and_out(server: str, images: tuple[Images, list[int]], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    from pyarrow import parquet

    files = [png(image) for image in images[0][:20]]
    table = pyarrow.table({"name": [f"n{i}" for i in range(20)], "image": [{"bytes": file} for file in files]})
    parquet.write_table(table, tmp_path / "in.parquet")

    assert score(tmp_path / "in.parquet", tmp_path / "out", server, "--format", "parquet") == 0

    found = parquet.read_table(tmp_path / "out" / "scores.parquet").to_pylist()
    assert [row["name"] for row in found] == [f"n{i}" for i in range(20)]
    assert [row["class"] for row in found] == images[1][:20]
    assert [len(row["probabilities"]) for row in found] == [10] * 20


@pytest.mark.parametrize("more", [[], RAY], ids=["here", "ray"])
def test_a_killed_run_goes_on_where_it_was_without_a_row_twice(
    server: str, images: tuple[Images, list[int]], tmp_path: Path, more: list[str]
) -> None:
    many = np.tile(images[0], (8, 1, 1, 1))
    np.savez(tmp_path / "images.npz", images=many)
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "scripts.score",
        str(tmp_path / "images.npz"),
        "--out",
        str(out),
        "--server",
        server,
    ]
    command += ["--part", "10", "--batch", "5", "--connections", "1", *more]
    killed = 0
    for _ in range(1 if more else 3):
        before = len(list(out.glob("part-*.jsonl")))
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("part-*.jsonl"))) < before + 3:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.jsonl")}

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert killed >= 1
    assert f"{len(kept) * 10} of 480 are there already" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    found = rows(out)
    assert [row["name"] for row in found] == [str(index) for index in range(480)]
    assert [int(row["class"]) for row in found] == images[1] * 8


def test_other_pictures_do_not_go_into_the_same_folder(
    server: str, images: tuple[Images, list[int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "a.npy", images[0][:3])
    np.save(tmp_path / "b.npy", images[0][3:6])
    assert score(tmp_path / "a.npy", tmp_path / "out", server) == 0

    assert score(tmp_path / "b.npy", tmp_path / "out", server) == 2
    assert "was begun with another source; take a new folder" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 28, 28), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.scoring.ask.ATTEMPTS", 1)
        assert score(tmp_path / "a.npy", tmp_path / "out", "http://127.0.0.1:9") == 1
    assert "refused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((2, 28, 28), np.float32), "images are float32 [2, 28, 28]; expected uint8"),
        ("a.npy", np.zeros((0, 28, 28), np.uint8), "no pictures"),
        ("a.npy", b"nothing", "neither .npz, .npy nor .parquet"),
        ("a.parquet", b"nothing", "not a Parquet file"),
    ],
)
def test_a_wrong_source_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: Any, message: str
) -> None:
    file = io.BytesIO()
    if isinstance(content, bytes):
        file.write(content)
    else:
        np.save(file, content)
    (tmp_path / name).write_bytes(file.getvalue())

    assert score(tmp_path / name, tmp_path / "out", "http://127.0.0.1:9") == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.kmnist
def test_the_ten_thousand_test_pictures_get_the_servers_classes(server: str, kmnist: Path, tmp_path: Path) -> None:
    images = load("kmnist", kmnist).x_test
    np.save(tmp_path / "images.npy", images)
    session = onnxruntime.InferenceSession(served_bundle() / "model.onnx")
    name = session.get_inputs()[0].name
    (scores,) = session.run(None, {name: images.reshape(-1, 28, 28, 1)})

    out = tmp_path / "out"
    arguments = [str(tmp_path / "images.npy"), "--out", str(out), "--server", server]
    begun = subprocess.Popen([sys.executable, "-m", "scripts.score", *arguments], cwd=ROOT, stderr=subprocess.DEVNULL)
    while begun.poll() is None and len(list(out.glob("part-*.jsonl"))) < 3:
        time.sleep(0.005)
    begun.kill()
    assert begun.wait() == -signal.SIGKILL

    assert main(arguments) == 0

    found = rows(out)
    assert [row["name"] for row in found] == [str(index) for index in range(10_000)]
    assert [int(row["class"]) for row in found] == scores.argmax(axis=1).tolist()
