"""The measures behind docs/statistics.md, against other people's; and the page that they are written into."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from sklearn.metrics import roc_auc_score

from bundle import open_bundle
from bundle.statistics import read_reference
from drift import Layout
from scripts.evidence.page import fill
from scripts.evidence.windows import Detectors, Pictures, auc, draw, measure
from scripts.measure_statistics import main
from scripts.recalibrating.measure import picture_moments
from tests.support import ROOT, served_bundle


def test_auc_is_that_of_scikit_learn():
    random = np.random.default_rng(0)
    negative, positive = random.integers(0, 20, 70).astype(float), random.integers(5, 25, 50).astype(float)

    truth = roc_auc_score([0] * 70 + [1] * 50, [*negative, *positive])

    assert auc(negative, positive) == pytest.approx(truth)
    assert auc(negative, negative) == pytest.approx(0.5)


def test_windows_hold_different_pictures():
    draws = draw(40, 12, 30, np.random.default_rng(0))

    assert draws.shape == (30, 40)
    assert set(np.unique(draws)) == {0, 1}
    assert (draws.sum(1) == 12).all()
    assert len({tuple(row) for row in draws}) == 30


def test_pictures_are_measured_one_by_one_as_the_probe_measures_a_batch():
    bundle = open_bundle(served_bundle())
    probe = onnx.load_model(bundle.path("probe.onnx"))
    found = read_reference(bundle)
    assert found is not None
    layout: Layout = found[0].layout
    with np.load(bundle.path("golden.npz")) as archive:
        images, wanted = archive["image"], archive["probabilities"]

    pictures = measure(probe, layout, images)
    moments = picture_moments(probe, layout, images)

    np.testing.assert_array_equal(pictures.moments, moments)
    np.testing.assert_allclose(pictures.answers, wanted, atol=1e-5)
    np.testing.assert_allclose(pictures.pixels[:, 0], images.mean(axis=(1, 2, 3)) / 255)
    session = onnxruntime.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    for row in (0, len(images) - 1):
        outputs = session.run(layout.outputs, {"image": images[row : row + 1]})
        alone = np.concatenate([[1.0], *(np.ravel(output) for output in outputs)])
        np.testing.assert_allclose(moments[row], alone, rtol=1e-4, atol=1e-4)
    whole = session.run(layout.outputs, {"image": images})
    summed = np.concatenate([[float(len(images))], *(np.ravel(output) for output in whole)])
    np.testing.assert_allclose(pictures.windows(np.ones((1, len(images)))).moments[0], summed, rtol=1e-4, atol=1e-2)


def test_the_pictures_that_are_needed_fall_with_the_distance():
    random = np.random.default_rng(1)

    def pictures(mean: float) -> Pictures:
        values = random.normal(mean, 1, (4000, 1))
        return Pictures(np.ones((4000, 1)), *(values for _ in range(4)))

    def mean(windows: Pictures) -> np.ndarray:
        return np.abs(windows.surest / windows.moments)[:, 0]

    sizes = (4, 16, 64, 256, 1024)
    detectors = Detectors({"mean": mean}, pictures(0), sizes, 200)
    needed = [detectors.needed(pictures(shift))["mean"] for shift in (3.0, 1.0, 0.4)]

    # 95 % are above what 1 % exceed once the shift is (2.58 + 1.64)/sqrt(n): from n = 2, 18 and 112 pictures on.
    assert needed == [4, 64, 256]
    assert detectors.needed(pictures(0.0))["mean"] is None


def test_parts_of_the_page_are_replaced_and_the_rest_stays():
    page = "a\n<!-- begin: x -->\nold\n<!-- end: x -->\nb\n"

    once = fill(page, {"x": "new"})

    assert once == "a\n<!-- begin: x -->\n\nnew\n\n<!-- end: x -->\nb\n"
    assert fill(once, {"x": "new"}) == once
    with pytest.raises(ValueError, match="no markers for 'y'"):
        fill(page, {"x": "new", "y": "newer"})
    with pytest.raises(ValueError, match="nothing was measured for x"):
        fill(page, {})


@pytest.mark.kmnist
@pytest.mark.slow
def test_the_command_fills_the_page(kmnist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "statistics.md"
    shutil.copy(ROOT / "docs/statistics.md", page)
    command = ["--data-dir", str(kmnist), "--model", str(served_bundle().parent), "--page", str(page), "--quick"]

    assert main(command) == 0

    text = page.read_text(encoding="utf-8")
    assert "| rotation, 3 |" in text
    assert "| only class 9 |" in text
    assert {path.name for path in (tmp_path / "images").iterdir()} == {"drift.png", "recalibration.png"}
    assert main([*command[:1], str(tmp_path / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
