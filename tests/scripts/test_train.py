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
from scripts.training.augment import augment
from scripts.training.config import RECIPES, Augmentation, TrainConfig
from scripts.training.distill import Answers, DistillationLoss, Pool, answers
from scripts.training.mixup import blend, blending, mixture, unblended
from scripts.training.networks import reference_network, teacher_network
from scripts.training.reestimate import reestimate

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
        | {"distillation": {"epochs": 1, "teachers": 2, "mixup": 0.5, "manifold": True, "copies": 2}}
        | {"validation_split": 0.1}
    )
    trained = fit.train(config, load("digits"), tmp_path)
    teachers = [teacher_network((28, 28, 1), 10) for _ in range(2)]
    for number, teacher in enumerate(teachers, 1):
        teacher.load_weights(tmp_path / f"teacher-{number}.keras")
    first, second = (teacher.get_weights()[0] for teacher in teachers)
    assert np.abs(first - second).max() > 0.01
    assert not any(isinstance(layer, keras.layers.Dropout) for layer in trained.network.layers)
    norms = [layer for layer in trained.network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [type(layer) for layer in norms] == [keras.layers.BatchNormalization] * 5
    assert [layer.momentum for layer in norms] == [0.99] * 5
    assert 0 <= trained.validation["val_accuracy"] <= 1


@pytest.mark.parametrize("limits", [{"cutout": 16, "cutout_probability": 1}, {"rotate": 30, "scale": 0.3}])
def test_the_last_copies_have_no_cut_outs_and_half_of_their_pictures_unchanged(limits):
    digits, teacher = load("digits"), teacher_network((28, 28, 1), 10)
    images, classes = digits.x_train[:200], digits.y_train[:200]
    config = TrainConfig.model_validate(
        {"epochs": 9, "augmentation": limits, "distillation": {"copies": 4, "refine": 0.5}}
    )
    asked = answers([teacher], images, classes, config, 10)
    unchanged = (asked.images == images).all((2, 3, 4)).mean(1)
    assert max(unchanged[:2]) < 0.1
    assert (min(unchanged[2:]) == 1) if "cutout" in limits else (0.3 < min(unchanged[2:]) <= max(unchanged[2:]) < 0.7)
    for pictures, targets in zip(*asked, strict=True):
        np.testing.assert_array_equal(targets[:, :10], np.eye(10)[classes])
        np.testing.assert_allclose(targets[:, 10:], teacher.predict(pictures.astype("f"), verbose=0), atol=1e-3)


def test_the_last_epoch_is_the_last_copy():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None, None].repeat(4, 1)
    pool = Pool(Answers(images, np.zeros((3, 4, 2), np.float16)), 4, seed=0, epochs=5)
    seen = []
    for _ in range(5):
        seen.append(pool[0][0].max())
        pool.on_epoch_end()
    assert seen == [1, 2, 0, 1, 2]


def test_networks_from_one_start_are_averaged(tmp_path):
    shape, norm = (28, 28, 1), TrainConfig().batchnorm
    start = reference_network(shape, 10, norm, name="start")
    start.save(tmp_path / "start.keras")
    config = TrainConfig(dataset="digits", start=tmp_path / "start.keras", networks=2, epochs=1, learning_rate=1e-4)
    trained = fit.train(config, load("digits"), tmp_path)
    members = [reference_network(shape, 10, norm) for _ in range(2)]
    for number, member in enumerate(members, 1):
        member.load_weights(tmp_path / f"network-{number}.weights.h5")
    first, second = (member.get_weights() for member in members)
    kernel = start.get_weights()[0]
    assert 0 < np.abs(first[0] - kernel).max() < 0.01  # they began there, and not where chance would have them
    assert np.abs(first[0] - second[0]).max() > 0
    for array, one, other in zip(trained.network.get_weights(), first, second, strict=True):
        np.testing.assert_allclose(array, (one.astype(np.float64) + other) / 2, rtol=1e-6, atol=1e-7)


def test_a_start_that_cannot_be_used_is_named(tmp_path, capsys):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "other.keras")
    for name, message in (("missing", "no such file"), ("other", "is another network than")):
        command = [*QUICK, "--start", str(tmp_path / f"{name}.keras"), "--out", str(tmp_path / name)]
        assert main(command) == 2
        assert message in capsys.readouterr().err
    assert main([*QUICK, "--networks", "2"]) == 2
    assert "networks: only networks with a common start" in capsys.readouterr().err


def test_blending_mixes_the_pictures_and_their_targets_alike():
    """A picture that is its target, spread out: the blended picture must be the blended target, spread out."""
    targets = np.eye(200, dtype=np.float32)
    drawn = mixture(200, 0.5)
    pictures, mixed = (
        np.asarray(blend(x, drawn.own, drawn.partner)) for x in (targets.reshape(200, 10, 20, 1), targets)
    )
    np.testing.assert_array_equal(pictures.reshape(200, 200), mixed)
    np.testing.assert_allclose(mixed.sum(1), 1, rtol=1e-6)
    parts = np.count_nonzero(mixed, axis=1)
    assert 60 < (parts == 2).sum() < 140
    assert (parts <= 2).all()
    assert (mixed[parts == 1].argmax(1) == np.flatnonzero(parts == 1)).all()
    nothing = mixture(200, 0.0)
    np.testing.assert_array_equal(blend(targets, nothing.own, nothing.partner), targets)


def test_a_mixture_is_drawn_at_every_depth_as_often_as_it_is_named():
    depths = np.array([np.unique(mixture(3, 0.5, (0, 0, 1, 2)).depth) for _ in range(400)]).ravel()
    counts = np.bincount(depths, minlength=3)
    assert abs(counts[0] - 200) < 60
    assert min(counts[1:]) > 50


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_batch_is_blended_at_the_depth_that_was_drawn(depth):
    """The first half of the network, the blend in numpy, the second half: what the blending network does in one."""
    keras.utils.set_random_seed(0)
    teacher = teacher_network((28, 28, 1), 10)
    kernel, bias = teacher.layers[-1].get_weights()
    teacher.layers[-1].set_weights([30 * kernel, bias])  # an untrained network would answer nearly alike to everything
    pictures = load("digits").x_train[:6].astype(np.float32)
    own, partner = np.array([1, 0.3, 0.5, 0.9, 0.0, 0.7], np.float32), np.array([3, 2, 5, 0, 1, 4], np.int32)
    answers = blending(teacher, ("pool2", "pool3"))((pictures, own, partner, np.full(6, depth, np.int32)))
    cut = teacher.get_layer(f"pool{depth + 1}").output if depth else teacher.input
    hidden = np.asarray(keras.Model(teacher.input, cut)(pictures))
    weight = own[:, None, None, None]
    mixed = weight * hidden + (1 - weight) * hidden[partner]
    expected = keras.Model(cut, teacher.output)(mixed)
    np.testing.assert_allclose(answers, expected, atol=1e-4)
    assert np.abs(answers - teacher(pictures)).max() > 1e-3


def test_pictures_that_are_not_blended_may_come_in_batches():
    """As the validation pictures do: every batch knows its own pictures alone."""
    keras.utils.set_random_seed(0)
    teacher = teacher_network((28, 28, 1), 10)
    pictures = load("digits").x_train[:10].astype(np.float32)
    answers = blending(teacher, ("pool2", "pool3")).predict((pictures, *unblended(10)), batch_size=4, verbose=0)
    np.testing.assert_allclose(answers, teacher.predict(pictures, verbose=0), atol=1e-6)


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
    reestimate(network, [(pictures[:100], None), (pictures[100:200], None), (pictures[200:], None)])
    first = (
        keras.Model(network.inputs, network.get_layer("conv1").output).predict(pictures, verbose=0).astype(np.float64)
    )
    batches = first.reshape(3, -1, 32)
    np.testing.assert_allclose(network.get_layer("bn1").moving_mean, batches.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(network.get_layer("bn1").moving_variance, batches.var(1).mean(0), rtol=1e-3)


def test_the_statistics_of_a_finished_network_are_those_of_unchanged_pictures(tmp_path):
    digits = load("digits")
    config = TrainConfig(
        dataset="digits", epochs=1, reestimate=40, augmentation=Augmentation(cutout=16, cutout_probability=1)
    )
    network = fit.train(config, digits, tmp_path).network
    pictures = digits.x_train[: int(0.8 * len(digits.x_train))].astype(np.float32)
    first = keras.Model(network.inputs, network.get_layer("conv1").output).predict(pictures, verbose=0)
    mean, variance = first.mean((0, 1, 2), np.float64), first.var((0, 1, 2), np.float64)
    np.testing.assert_allclose(network.get_layer("bn1").moving_mean, mean, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(network.get_layer("bn1").moving_variance, variance, rtol=0.02, atol=1e-3)


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
