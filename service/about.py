"""What the page tells of a model: its card, its graph before and after the fold, some characters to try."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bundle import Bundle
from service.errors import BadRequestError, NotFoundError
from service.images import data_uri, image_layout
from service.model import Model
from service.nodes import read_nodes

CARD, GOLDEN = "README.md", "golden.npz"
MOST_EXAMPLES = 30
T = TypeVar("T")


def card(model: Model) -> dict[str, Any]:
    """The model card in Markdown, and the pictures that it shows as data URIs.

    Raises:
        NotFoundError: the model has none.
    """
    bundle = model.bundle
    if bundle is None or CARD not in bundle.manifest.files:
        raise NotFoundError(f"model '{model.name}' version {model.version} has no card")
    text = _read(bundle, CARD, Path.read_text)
    named = [name for name in bundle.manifest.files if name.endswith(".png") and f"({name})" in text]
    pictures = {name: base64.b64encode(_read(bundle, name, Path.read_bytes)).decode() for name in named}
    return {"markdown": text, "pictures": {name: f"data:image/png;base64,{data}" for name, data in pictures.items()}}


def graph(model: Model) -> dict[str, Any]:
    """The operators of the graph that was trained and of the one that is served, and where each normalisation went."""
    if model.bundle is None:
        return {"reference": None, "folded": None, "layers": [], "certificate": None}
    manifest = model.bundle.manifest

    def nodes(name: str) -> list[dict[str, str]] | None:
        return _read(model.bundle, name, read_nodes) if model.bundle and name in manifest.files else None

    return {
        "reference": nodes("reference.onnx"),
        "folded": nodes("model.onnx"),
        "layers": [layer.model_dump(include={"name", "status", "rules", "into"}) for layer in manifest.batchnorm],
        "certificate": manifest.certificate.model_dump() if manifest.certificate else None,
    }


def examples(model: Model) -> dict[str, Any]:
    """The labels, and the bundle's pictures with what the network as trained says of each; none for other models."""
    bundle = model.bundle
    found: dict[str, Any] = {"labels": list(model.labels), "examples": []}
    if bundle is None or GOLDEN not in bundle.manifest.files or not _takes_pictures(model):
        return found
    layout = image_layout(model.signature)
    with _read(bundle, GOLDEN, np.load) as golden:
        pictures = golden[model.signature.inputs[0].name][:MOST_EXAMPLES]
        classes = golden[model.signature.outputs[0].name][:MOST_EXAMPLES].argmax(axis=-1)
    for picture, best in sorted(zip(pictures, classes, strict=True), key=lambda pair: int(pair[1])):
        label = model.labels[best] if best < len(model.labels) else str(best)
        found["examples"].append({"class": int(best), "label": label, "picture": data_uri(picture, layout)})
    return found


def _takes_pictures(model: Model) -> bool:
    try:
        image_layout(model.signature)
    except BadRequestError:
        return False
    return True


def _read(bundle: Bundle, name: str, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file of the bundle.

    Raises:
        NotFoundError: it was taken away since the bundle was loaded.
    """
    try:
        return read(bundle.path(name))
    except (OSError, ValueError):
        raise NotFoundError(f"{name} of this bundle is not there any more") from None
