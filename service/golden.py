"""The self-test: what a model must answer to inputs whose answers are known."""

from dataclasses import dataclass

import numpy as np

from bundle import Bundle
from service.engine.session import CPU, Session, example_inputs
from service.errors import LoadError
from service.protocol.signature import Signature
from service.protocol.tensors import Array

TOLERANCE = {CPU: 1e-5}
TOLERANCE_ELSEWHERE = 1e-4


@dataclass(frozen=True)
class Golden:
    """Inputs by name, and the reference's outputs in the signature's order; kept, since files come and go.

    Attributes:
        source: where they are from, for messages.
        feed: the inputs.
        wanted: the outputs; None where no reference is known, and the model has only to run.
        names: of the outputs.
        limit: how far an output may be away from the reference's.
    """

    source: str
    feed: dict[str, Array]
    wanted: list[Array] | None
    names: tuple[str, ...]
    limit: float

    def check(self, session: Session) -> None:
        """Let the session answer.

        Raises:
            LoadError: its answers are not what they must be.
        """
        try:
            outputs = session.run(None, self.feed)
        except Exception as error:
            raise LoadError(f"{self.source}: the model fails on these inputs: {error}") from error
        if self.wanted is None:
            return
        for name, want, got in zip(self.names, self.wanted, outputs, strict=True):
            if want.shape != got.shape:
                raise LoadError(f"{self.source}: '{name}' has shape {list(got.shape)}, golden is {list(want.shape)}")
            worst = float(np.abs(got.astype(np.float64) - want).max(initial=0.0))
            if not worst <= self.limit:
                raise LoadError(
                    f"{self.source}: '{name}' is {worst:.3g} away from its golden answers (at most {self.limit:g})"
                )


def read_golden(bundle: Bundle | None, signature: Signature, provider: str) -> Golden:
    """The golden inputs of a bundle; a random one where there are none.

    Raises:
        LoadError: the bundle's are not usable.
    """
    names = tuple(tensor.name for tensor in signature.outputs)
    limit = TOLERANCE.get(provider, TOLERANCE_ELSEWHERE)
    if bundle is None or "golden.npz" not in bundle.manifest.files:
        feed = dict(zip((t.name for t in signature.inputs), example_inputs(signature, 1), strict=True))
        return Golden(f"{signature.model}, a random input", feed, None, names, limit)
    path = bundle.path("golden.npz")
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = {key: archive[key] for key in archive.files}
        feed = {tensor.name: golden[tensor.name] for tensor in signature.inputs}
        return Golden(str(path), feed, [golden[name] for name in names], names, limit)
    except (OSError, ValueError, KeyError) as error:
        raise LoadError(f"{path}: not usable for the self-test: {error}") from error
