"""A recalibrated version: the statistics of the new images, folded, proved, and a proposal until it is promoted."""

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from safetensors.numpy import load_file
from starlette.testclient import TestClient

from bnfold.evaluate import Float64Evaluator
from bundle import open_bundle
from bundle.__main__ import main as bundle_command
from bundle.default import is_proposal, preference
from scripts.evidence.corruptions import CORRUPTIONS
from scripts.recalibrate import main
from scripts.recalibrating.images import read_images
from service.app import create_app
from service.settings import Settings
from tests.support import served_bundle

CONTRAST, SHIFT = (next(c for c in CORRUPTIONS if c.name == name) for name in ("contrast", "shift"))
COPIES = 10


@pytest.fixture
def models(tmp_path: Path) -> Path:
    shutil.copytree(served_bundle(), tmp_path / "models/kmnist/1")
    return tmp_path / "models"


@pytest.fixture(scope="session")
def golden() -> tuple[np.ndarray, np.ndarray]:
    """Real pictures of all classes, moved about so that there are enough, and their classes as version 1 sees them."""
    with np.load(served_bundle() / "golden.npz") as archive:
        pictures, classes = archive["image"], archive["probabilities"].argmax(1)
    moved = np.concatenate([SHIFT(pictures, 1, seed) for seed in range(COPIES)])
    return moved, np.tile(classes, COPIES)


def run(models: Path, images: Path, *more: str) -> int:
    return main(["--name", "kmnist", "--models", str(models), "--images", str(images), *more])


def probabilities(folder: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": images})
    return np.asarray(answer)


def test_a_new_version_from_faint_pictures(models, golden, tmp_path, capsys):
    pictures, classes = golden
    faint = CONTRAST(pictures, 4)
    np.savez(tmp_path / "new.npz", images=faint, labels=classes)
    np.save(tmp_path / "old.npy", pictures)

    assert run(models, tmp_path / "new.npz", "--source-data", str(tmp_path / "old.npy"), "--pseudo-count", "8") == 0

    said = json.loads(capsys.readouterr().out)
    old, new = open_bundle(models / "kmnist/1"), open_bundle(models / "kmnist/2")
    made = new.manifest.recalibration
    assert made is not None
    assert (said["version"], made.parent_version, made.parent_sha256) == (2, 1, old.digest)
    assert (made.images, made.pseudo_count, made.forced, made.source_images) == (len(faint), 8, False, len(faint))
    assert all(guard.passed for guard in made.guards)
    assert made.entropy[1] < made.entropy[0]

    # What it says of the answers is what the two graphs answer.
    before, after = (probabilities(b.folder, faint).argmax(1) for b in (old, new))
    assert made.accuracy == pytest.approx(((before == classes).mean(), (after == classes).mean()))
    assert made.accuracy is not None
    assert made.accuracy[1] > made.accuracy[0]
    assert made.agreement == pytest.approx((before == after).mean())
    on_old = [probabilities(b.folder, pictures).argmax(1) for b in (old, new)]
    assert made.source_agreement == pytest.approx((on_old[0] == on_old[1]).mean())

    # The first layer's statistics are those of its input, by an evaluator in float64, mixed by the pseudo-count.
    reference = onnx.load_model(models / "kmnist/1/reference.onnx")
    node = next(node for node in reference.graph.node if node.op_type == "BatchNormalization")
    seen = Float64Evaluator(reference, [node.input[0]])({"image": faint})[node.input[0]]
    arrays, were = (load_file(b.path("batchnorm.safetensors")) for b in (new, old))
    share = 8 / (8 + len(faint))
    for key, value in (("moving_mean", seen.mean(axis=(0, 2, 3))), ("moving_variance", seen.var(axis=(0, 2, 3)))):
        wanted = share * were[f"{node.name}/{key}"] + (1 - share) * value
        np.testing.assert_allclose(arrays[f"{node.name}/{key}"], wanted, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(arrays[f"{node.name}/gamma"], were[f"{node.name}/gamma"])

    # It proves itself, and is what its reference is.
    proof, counts = new.manifest.certificate, new.manifest.operators
    assert proof is not None
    assert proof.max_abs_error < 1e-5
    assert counts == old.manifest.operators
    renewed = onnx.load_model(new.path("reference.onnx"))
    truth = Float64Evaluator(renewed)({"image": faint[:8]})["probabilities"]
    np.testing.assert_allclose(probabilities(new.folder, faint[:8]), truth, atol=1e-5)
    with np.load(new.path("golden.npz")) as archive:
        np.testing.assert_allclose(probabilities(new.folder, archive["image"]), archive["probabilities"], atol=1e-5)
    assert new.manifest.drift is not None
    assert {"model.keras", "training/history.csv"}.isdisjoint(new.manifest.files)
    assert "## Recalibration" in new.path("README.md").read_text(encoding="utf-8")

    # A proposal, until it is promoted.
    assert is_proposal(new.folder)
    assert preference(models / "kmnist", [1, 2]) == [1, 2]
    assert bundle_command(["promote", str(models / "kmnist"), "2"]) == 0
    assert preference(models / "kmnist", [1, 2]) == [2, 1]
    assert bundle_command(["rollback", str(models / "kmnist")]) == 0
    assert preference(models / "kmnist", [1, 2]) == [1, 2]
    assert bundle_command(["rollback", str(models / "kmnist")]) == 2
    assert "nothing to roll back" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("what", "reason"),
    [("few", "at least 64 asked"), ("one class", "equally frequent"), ("mixture", "mixture"), ("clean", "gain")],
)
def test_guard_rails_refuse_and_nothing_is_written(models, golden, tmp_path, capsys, what, reason):
    pictures, classes = golden
    chosen = {
        "few": CONTRAST(pictures, 4)[:63],
        "one class": np.concatenate([SHIFT(pictures[classes == classes[0]], 1, seed) for seed in range(8)]),
        "mixture": np.concatenate([pictures[:80], CONTRAST(pictures[80:], 5)]),
        "clean": pictures,
    }[what]
    np.save(tmp_path / "new.npy", chosen)

    assert run(models, tmp_path / "new.npy") == 3

    assert reason in capsys.readouterr().err
    assert [path.name for path in (models / "kmnist").iterdir()] == ["1"]


def test_force_goes_on_and_is_recorded(models, golden, tmp_path, capsys):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(golden[0][:20]):
        Image.fromarray(picture[..., 0]).resize((56, 56)).save(folder / f"{number:02}.png")

    assert run(models, folder, "--force") == 0

    made = open_bundle(models / "kmnist/2").manifest
    assert made.recalibration is not None
    assert made.recalibration.forced
    assert next(guard.name for guard in made.recalibration.guards if not guard.passed) == "count"
    assert made.drift is None  # twenty images say nothing about chance


def test_photographs_are_read_as_the_server_reads_them(golden, tmp_path):
    """Dark ink on larger paper, in colour, lying: what is re-estimated on is what `picture=true` shows of an answer."""
    for number, picture in enumerate(golden[0][:6]):
        sheet = np.full((120, 150, 3), (240, 230, 210), np.uint8)
        sheet[20:104, 40:124] -= np.kron(picture, np.ones((3, 3, 1), np.uint8)) // 5 * 3
        exif = Image.Exif()
        exif[0x0112] = 1 + 5 * (number % 2)
        Image.fromarray(sheet).save(tmp_path / f"{number}.jpg", quality=90, exif=exif)
    spec = open_bundle(served_bundle()).manifest.inputs[0]

    images, labels = read_images(tmp_path, spec)

    with TestClient(create_app(Settings(models=served_bundle().parents[1], runners=1))) as client:
        for picture, path in zip(images, sorted(tmp_path.iterdir()), strict=True):
            answer = client.post("/predict?picture=true", content=path.read_bytes()).json()
            shown = Image.open(io.BytesIO(base64.b64decode(answer["picture"].partition(",")[2])))
            np.testing.assert_array_equal(picture[..., 0], np.asarray(shown))
            assert answer["inverted"]
    assert labels is None
    assert (images.reshape(6, -1).max(1) >= 250).all()


def test_a_file_that_is_no_picture_is_named(models, tmp_path, capsys):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "broken.png").write_bytes(b"no picture")

    assert run(models, tmp_path / "new") == 2

    assert "broken.png: not a picture of a known format (PNG, JPEG, WEBP, BMP)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"pictures": np.zeros((4, 28, 28, 1), np.uint8)}, "expected an array `images`, found pictures"),
        ({"images": np.zeros((4, 28, 28, 1), np.float32)}, "takes UINT8 .n, 28, 28, 1., found float32"),
        ({"images": np.zeros((4, 32, 32, 1), np.uint8)}, "found uint8 .4, 32, 32, 1."),
        ({"images": np.zeros((0, 28, 28, 1), np.uint8)}, "found uint8 .0, "),
        ({"images": np.zeros((4, 28, 28), np.uint8), "labels": np.zeros(3, int)}, "labels: expected 4 whole numbers"),
    ],
)
def test_images_that_do_not_fit_are_named(models, tmp_path, capsys, content, reason):
    np.savez(tmp_path / "new.npz", **content)

    assert run(models, tmp_path / "new.npz") == 2

    error = capsys.readouterr().err
    assert error.startswith("recalibrate: ")
    assert re.search(reason, error)


def test_what_is_not_there_is_named(models, tmp_path, capsys):
    assert run(models, tmp_path / "missing.npz") == 2
    assert "missing.npz: not readable" in capsys.readouterr().err
    assert main(["--name", "nobody", "--models", str(models), "--images", "x.npz"]) == 2
    assert "nobody: no such model" in capsys.readouterr().err
    assert run(models, tmp_path, "--version", "7") == 2
    assert "no such version" in capsys.readouterr().err
    assert run(models, tmp_path / "models") == 2
    assert "no pictures in it" in capsys.readouterr().err
