"""A training run on real handwriting leaves what it promises, goes on after a break, and keeps its best at Ctrl-C."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from PIL import Image

from scripts.datasets import load
from scripts.train import main
from scripts.training import fit
from scripts.training.augment import augment, blend
from scripts.training.config import RECIPES, Augmentation, TrainConfig
from scripts.training.distill import DistillationLoss
from scripts.training.networks import reference_network

QUICK = ["--recipe", "quick", "--batch-size", "100"]


def test_a_run_leaves_a_network_and_its_story(tmp_path, capsys):
    out = tmp_path / "run"
    assert main([*QUICK, "--epochs", "6", "--out", str(out), "--tensorboard"]) == 0
    assert list((out / "tensorboard").rglob("events.out.*"))
    results = json.loads((out / "results.json").read_text())
    digits = load("digits")
    network = keras.models.load_model(out / "model.keras", compile=False)
    answers = network.predict(digits.x_test.astype(np.float32), verbose=0).argmax(1)
    assert results["test_accuracy"] == pytest.approx(np.mean(answers == digits.y_test))
    assert results["test_accuracy"] > 0.85
    assert f"test accuracy {results['test_accuracy']:.4f}" in capsys.readouterr().out
    with (out / "history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == [str(epoch) for epoch in range(6)]
    with (out / "classes.csv").open() as file:
        recall = {int(row["class"]): float(row["recall"]) for row in csv.DictReader(file)}
    for number, value in recall.items():
        assert value == pytest.approx(np.mean(answers[digits.y_test == number] == number), abs=1e-4)
    for name in ("curves.png", "confusion.png"):
        with Image.open(out / name) as picture:
            assert picture.width > 300
    assert TrainConfig.model_validate_json((out / "config.json").read_text()).epochs == 6
    assert main([*QUICK, "--epochs", "6", "--out", str(out)]) == 2  # finished: not to be overwritten


def test_the_network_is_the_one_of_the_keras_example():
    config = TrainConfig.model_validate(RECIPES["best"])
    network = reference_network((28, 28, 1), 10, config.batchnorm)
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == [
        "InputLayer", "Rescaling", "Conv2D", "BatchNormalization", "MaxPooling2D", "BatchNormalization", "Conv2D",
        "BatchNormalization", "MaxPooling2D", "BatchNormalization", "Flatten", "Dense", "BatchNormalization", "Dense",
    ]  # fmt: skip
    assert [network.get_layer(name).filters for name in ("conv1", "conv2")] == [32, 64]
    assert network.get_layer("dense1").units == 256


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_broken_off_run(tmp_path, how, root):
    """A killed run goes on where it ended; Ctrl-C keeps the best network so far."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "scripts.train", *QUICK, "--epochs", "40", "--out", str(out)]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    history = out / "history.csv"
    deadline = time.monotonic() + 300
    while not history.exists() or len(history.read_text().splitlines()) < 4:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, how)
    output, _ = process.communicate(timeout=300)
    if how == signal.SIGINT:
        assert process.returncode == 130, output
        assert json.loads((out / "results.json").read_text())["interrupted"] is True
        assert (out / "model.keras").exists()
        return
    before = len(history.read_text().splitlines()) - 1
    again = subprocess.run(
        [*command[:-4], "--epochs", "40", "--out", str(out)], cwd=root, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    first = int(again.stdout.split("epoch ")[1].split("/")[0])
    assert before <= first <= before + 1
    assert first > 1
    assert json.loads((out / "results.json").read_text())["test_accuracy"] > 0.9


def test_distillation_trains_the_plain_network(tmp_path):
    config = TrainConfig.model_validate(
        RECIPES["best"]
        | {"dataset": "digits", "epochs": 3, "batch_size": 50, "reestimate": 5, "average": 0.9}
        | {"distillation": {"epochs": 1, "copies": 2}, "validation_split": 0.1}
    )
    trained = fit.train(config, load("digits"), tmp_path)
    assert (tmp_path / "teacher.keras").exists()
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in trained.network.layers)
    norms = [layer for layer in trained.network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [type(layer) for layer in norms] == [keras.layers.BatchNormalization] * 5
    assert [layer.momentum for layer in norms] == [0.99] * 5
    assert 0 <= trained.validation["val_accuracy"] <= 1


def test_blending_mixes_the_pictures_and_their_targets_alike():
    """A picture that is its target, spread out: the blended picture must be the blended target, spread out."""
    targets = np.eye(200, dtype=np.float32)
    pictures, mixed = map(np.asarray, blend(targets.reshape(200, 10, 20, 1), targets, 0.5))
    np.testing.assert_array_equal(pictures.reshape(200, 200), mixed)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-6)
    parts = np.count_nonzero(mixed, axis=1)
    assert 60 < (parts == 2).sum() < 140
    assert (parts <= 2).all()
    assert (mixed[parts == 1].argmax(1) == np.flatnonzero(parts == 1)).all()
    np.testing.assert_array_equal(blend(targets[:, :, None, None], targets, 0.0)[1], targets)


def test_distillation_loss_is_hintons():
    random = np.random.default_rng(0)
    logits, teacher = random.normal(size=(4, 3)), random.normal(size=(4, 3))

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    labels = np.eye(3)[[0, 2, 1, 1]]
    targets = np.concatenate([labels, softmax(teacher)], 1)
    soft = -(softmax(teacher / 2) * np.log(softmax(logits / 2))).sum(1)
    hard = -(labels * np.log(softmax(logits))).sum(1)
    loss = DistillationLoss(2.0, 0.8, 3)(targets.astype(np.float32), softmax(logits).astype(np.float32))
    assert float(loss) == pytest.approx(np.mean(0.8 * 4 * soft + 0.2 * hard), rel=1e-5)


def test_reestimated_statistics_are_the_averages_over_the_batches():
    """The first layer's input does not depend on other statistics, so its average can be computed by hand."""
    network = reference_network((28, 28, 1), 10, TrainConfig().batchnorm)
    pictures = load("digits").x_train[:300].astype(np.float32)
    fit.reestimate(network, [(pictures[:100], None), (pictures[100:200], None), (pictures[200:], None)])
    first = (
        keras.Model(network.inputs, network.get_layer("conv1").output).predict(pictures, verbose=0).astype(np.float64)
    )
    batches = first.reshape(3, -1, 32)
    np.testing.assert_allclose(network.get_layer("bn1").moving_mean, batches.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(network.get_layer("bn1").moving_variance, batches.var(1).mean(0), rtol=1e-3)


def test_no_augmentation_changes_nothing_and_a_shift_moves():
    pictures = load("digits").x_train[:20].astype(np.float32)
    np.testing.assert_array_equal(augment(pictures, Augmentation()), pictures)
    strong = Augmentation(rotate=12, scale=0.2, shear=0.2, shift=3, elastic=1, stroke=0.7, contrast=0.4, cutout=8)
    changed = np.asarray(augment(pictures, strong))
    assert changed.shape == pictures.shape
    assert changed.min() >= 0
    assert changed.max() <= 255.5
    assert np.abs(changed - pictures).mean((1, 2, 3)).min() > 1


def test_rotation_is_a_rotation_about_the_centre():
    """A half turn is a flip of both axes, whatever the picture."""
    from scripts.training.augment import _sample

    picture = load("digits").x_train[:1].astype(np.float32)
    rows, columns = np.meshgrid(np.arange(28.0), np.arange(28.0), indexing="ij")
    where = np.stack([27 - rows, 27 - columns], -1)[None].astype(np.float32)
    np.testing.assert_allclose(_sample(picture, where), picture[:, ::-1, ::-1], atol=1e-3)
