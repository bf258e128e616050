"""Every argument of BatchNormalization does what its formula says, in training and in inference mode.

The truth is float64 numpy: y = gamma·(x - mean)/sqrt(variance + epsilon) + beta, with the batch's statistics in
training and the moving ones in inference (Ioffe & Szegedy, arXiv:1502.03167).
"""

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from scripts.training.batchnorm import BatchNormArguments
from scripts.training.networks import FusedBatchNormalization

X = np.random.default_rng(1).normal(1.5, 2.0, (6, 4, 5, 3)).astype(np.float32)


def layer(**arguments):
    norm = keras.layers.BatchNormalization(**BatchNormArguments(**arguments).keras_arguments())
    norm.build(X.shape)
    return norm


def normalised(x, mean, variance, epsilon=1e-3, gamma=1.0, beta=0.0):
    return gamma * (x.astype(np.float64) - mean) / np.sqrt(variance + epsilon) + beta


def test_defaults_are_those_of_keras():
    ours, theirs = BatchNormArguments().keras_arguments(), keras.layers.BatchNormalization()
    for name, value in theirs.get_config().items():
        if name in ours and not name.endswith(("initializer", "regularizer", "constraint")):
            assert ours[name] == value, name
    norm = layer()
    for name, value in (("gamma", 1), ("beta", 0), ("moving_mean", 0), ("moving_variance", 1)):
        np.testing.assert_array_equal(np.asarray(getattr(norm, name)), value)


def test_every_keras_argument_can_be_set():
    signature = set(keras.layers.BatchNormalization().get_config()) - {"name", "trainable", "dtype"}
    assert signature <= set(BatchNormArguments.model_fields)


@pytest.mark.parametrize("axis", [-1, 3, 1, 2])
def test_axis(axis):
    others = tuple(i for i in range(4) if i != axis % 4)
    expected = normalised(
        X, X.mean(others, keepdims=True, dtype=np.float64), X.astype(np.float64).var(others, keepdims=True)
    )
    np.testing.assert_allclose(layer(axis=axis)(X, training=True), expected, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99, 1.0])
def test_momentum_weighs_the_old_statistics(momentum):
    norm = layer(momentum=momentum)
    mean, variance = np.zeros(3), np.ones(3)
    for shift in (0.0, 2.0):
        norm(X + np.float32(shift), training=True)
        mean = momentum * mean + (1 - momentum) * (X.astype(np.float64) + shift).mean((0, 1, 2))
        variance = momentum * variance + (1 - momentum) * X.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-5)


def test_inference_uses_the_moving_statistics_and_leaves_them():
    norm = layer(
        moving_mean_initializer={"name": "constant", "value": 0.5},
        moving_variance_initializer={"name": "constant", "value": 4.0},
    )
    np.testing.assert_allclose(norm(X, training=False), normalised(X, 0.5, 4.0), atol=1e-5)
    np.testing.assert_array_equal(norm.moving_mean, np.float32(0.5))
    np.testing.assert_array_equal(norm.moving_variance, np.float32(4.0))


@pytest.mark.parametrize("epsilon", [1e-5, 0.3])
def test_epsilon(epsilon):
    np.testing.assert_allclose(layer(epsilon=epsilon)(X), normalised(X, 0, 1, epsilon), atol=1e-5)


def test_without_center_there_is_no_beta():
    norm = layer(center=False, beta_initializer="ones")
    assert norm.beta is None
    np.testing.assert_allclose(norm(X), normalised(X, 0, 1), atol=1e-5)


def test_without_scale_there_is_no_gamma():
    norm = layer(scale=False, gamma_initializer="zeros")
    assert norm.gamma is None
    np.testing.assert_allclose(norm(X), normalised(X, 0, 1), atol=1e-5)


def test_initializers_of_gamma_and_beta():
    norm = layer(gamma_initializer={"name": "constant", "value": -2.0}, beta_initializer="ones")
    np.testing.assert_allclose(norm(X), normalised(X, 0, 1, gamma=-2.0, beta=1.0), atol=1e-5)


@pytest.mark.parametrize(
    ("regularizer", "penalty"),
    [
        ({"name": "l1", "l1": 0.5}, 0.5 * 3),
        ({"name": "l2", "l2": 0.1}, 0.1 * 3),
        ({"name": "l1_l2", "l1": 0.5, "l2": 0.1}, 1.8),
    ],
)
@pytest.mark.parametrize("parameter", ["gamma", "beta"])
def test_regularizers_add_to_the_loss(parameter, regularizer, penalty):
    norm = layer(**{f"{parameter}_regularizer": regularizer, f"{parameter}_initializer": "ones"})
    norm(X)
    assert float(sum(norm.losses)) == pytest.approx(penalty)


@pytest.mark.parametrize(
    ("constraint", "holds"),
    [
        ("non_neg", lambda w: (w >= 0).all()),
        ({"name": "max_norm", "max_value": 0.1}, lambda w: np.linalg.norm(w) <= 0.1 + 1e-6),
        ("unit_norm", lambda w: np.linalg.norm(w) == pytest.approx(1, abs=1e-4)),
        (
            {"name": "min_max_norm", "min_value": 3.0, "max_value": 3.0},
            lambda w: np.linalg.norm(w) == pytest.approx(3, abs=1e-4),
        ),
    ],
)
@pytest.mark.parametrize("parameter", ["gamma", "beta"])
def test_constraints_hold_after_a_training_step(parameter, constraint, holds):
    arguments = {f"{parameter}_constraint": constraint, f"{parameter}_initializer": {"name": "constant", "value": 0.2}}
    model = keras.Sequential(
        [keras.Input(X.shape[1:]), keras.layers.BatchNormalization(**BatchNormArguments(**arguments).keras_arguments())]
    )
    model.compile(keras.optimizers.SGD(5.0), "mse")
    model.train_on_batch(X, -10 * X)
    weights = np.asarray(getattr(model.layers[0], parameter))
    assert not np.allclose(weights, 0.2)
    assert holds(weights)


def test_synchronized_is_the_same_on_one_device():
    np.testing.assert_allclose(layer(synchronized=True)(X, training=True), layer()(X, training=True), atol=1e-5)


def test_renorm_corrects_towards_the_moving_statistics():
    """Ioffe, arXiv:1702.03275: y = (x - mean)/std · r + d, with r and d clipped."""
    arguments = {"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 0.25}, "renorm_momentum": 0.8}
    norm = layer(**arguments)
    mean, std = X.astype(np.float64).mean((0, 1, 2)), np.sqrt(X.astype(np.float64).var((0, 1, 2)) + 1e-3)
    r, d = np.clip(std / 1.0, 0.5, 2.0), np.clip(mean / 1.0, -0.25, 0.25)
    np.testing.assert_allclose(norm(X, training=True), (X - mean) / std * r + d, atol=1e-4)
    np.testing.assert_allclose(norm.renorm_mean, 0.2 * mean, rtol=1e-4)


def test_fused_training_layer_is_the_same_function():
    """Only the moving variance differs: unbiased, n/(n-1) of Keras'."""
    plain, fused = keras.layers.BatchNormalization(momentum=0.0), FusedBatchNormalization(momentum=0.0)
    np.testing.assert_allclose(fused(X, training=True), plain(X, training=True), atol=1e-5)
    np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, rtol=1e-5)
    count = X.size // 3
    np.testing.assert_allclose(
        fused.moving_variance, np.asarray(plain.moving_variance) * count / (count - 1), rtol=1e-5
    )
    np.testing.assert_allclose(fused(X, training=False), fused(X), atol=0)
    vectors = X.reshape(-1, 3)
    np.testing.assert_allclose(
        FusedBatchNormalization()(vectors, training=True),
        keras.layers.BatchNormalization()(vectors, training=True),
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma_initializer": "twos"}, "'twos' is no initializer; choose one of zeros, ones"),
        ({"beta_regularizer": "l3"}, "'l3' is no regularizer; choose one of l1, l2, l1_l2"),
        ({"gamma_constraint": {"name": "positive"}}, "'positive' is no constraint; choose one of max_norm"),
        ({"gamma_regularizer": {"name": "l2", "strength": 1}}, "l2: .*strength"),
        ({"epsilon": -1}, "greater than 0"),
        ({"momentum": 1.5}, "less than or equal to 1"),
        ({"axis": "last"}, "valid integer"),
    ],
)
def test_wrong_values_name_the_choices(arguments, message):
    with pytest.raises(ValidationError, match=message):
        BatchNormArguments(**arguments)
