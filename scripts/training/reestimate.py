"""The statistics of a finished network, measured anew."""

from typing import Any

import keras


def reestimate(network: keras.Model, batches: Any) -> None:
    """Replace the moving statistics by the plain average over batches, all layers at once.

    What stochastic weight averaging does after averaging the weights (Izmailov et al., arXiv:1803.05407).
    """
    norms = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in norms]
    for number, (pictures, _) in enumerate(batches):
        for layer in norms:
            layer.momentum = number / (number + 1)
        network(pictures, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
