"""The affine map y = scale * x + shift, which is all that batch normalisation is at inference time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def _frozen(array: npt.ArrayLike) -> Array:
    frozen = np.array(array, dtype=np.float64)
    frozen.setflags(write=False)
    return frozen


@dataclass(frozen=True, eq=False)
class Affine:
    """y = scale * x + shift in float64, element by element under numpy's broadcasting.

    Inside a graph, `scale` and `shift` have the rank of the tensor they act on and the size 1 along every axis on
    which they are constant: (1, C, 1, 1) is a per-channel map of an NCHW tensor. So an axis is known by its place and
    never guessed from a length.

    >>> import numpy as np
    >>> halve, lift = Affine(0.5, 0.0), Affine(1.0, 3.0)
    >>> float(lift.compose(halve)(8.0)), float(halve.compose(lift)(8.0))
    (7.0, 5.5)
    >>> float(halve.inverse()(1.0))
    2.0
    """

    scale: Array
    shift: Array

    def __init__(self, scale: npt.ArrayLike, shift: npt.ArrayLike) -> None:
        """Takes anything numpy can broadcast together.

        Raises:
            ValueError: `scale` and `shift` do not broadcast, or hold a NaN or an infinity.
        """
        wide_scale, wide_shift = np.broadcast_arrays(np.asarray(scale, np.float64), np.asarray(shift, np.float64))
        if not (np.isfinite(wide_scale).all() and np.isfinite(wide_shift).all()):
            raise ValueError("an affine needs a finite scale and shift")
        object.__setattr__(self, "scale", _frozen(wide_scale))
        object.__setattr__(self, "shift", _frozen(wide_shift))

    @classmethod
    def of_batchnorm(
        cls,
        gamma: npt.ArrayLike,
        beta: npt.ArrayLike,
        mean: npt.ArrayLike,
        variance: npt.ArrayLike,
        epsilon: float,
    ) -> Affine:
        """Batch normalisation with moving statistics (Ioffe and Szegedy 2015, algorithm 2).

        scale = gamma / sqrt(variance + epsilon), shift = beta - scale * mean, all of shape (C,).

        Raises:
            ValueError: `variance + epsilon` is not positive somewhere.

        >>> Affine.of_batchnorm([2.0], [1.0], [3.0], [0.75], 0.25).shift
        array([-5.])
        """
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in (gamma, beta, mean, variance))
        denominator = variance + epsilon
        if not (denominator > 0).all():
            raise ValueError("variance + epsilon must be positive")
        scale = gamma / np.sqrt(denominator)
        return cls(scale, beta - scale * mean)

    @classmethod
    def identity(cls, rank: int) -> Affine:
        """The map that changes nothing, for tensors of the given rank."""
        return cls(np.ones((1,) * rank), np.zeros((1,) * rank))

    def __call__(self, x: npt.ArrayLike) -> Array:
        """The value at `x`, in float64."""
        return np.asarray(self.scale * np.asarray(x, np.float64) + self.shift)

    def compose(self, inner: Affine) -> Affine:
        """This map after `inner`: x -> self(inner(x))."""
        return Affine(self.scale * inner.scale, self.scale * inner.shift + self.shift)

    def inverse(self) -> Affine:
        """The map that undoes this one.

        Raises:
            ZeroDivisionError: a scale is zero, so what went in cannot be told from what came out.
        """
        if not self.invertible:
            raise ZeroDivisionError("an affine with a zero scale has no inverse")
        return Affine(1.0 / self.scale, -self.shift / self.scale)

    def move(self, movement: Callable[[Array], Array]) -> Affine:
        """Moves scale and shift as an operator like Transpose or Reshape moves the tensor's elements."""
        return Affine(movement(self.scale), movement(self.shift)).compressed()

    def compressed(self) -> Affine:
        """The same map with size 1 along every axis on which it does not vary."""
        scale, shift = self.scale, self.shift
        for axis in range(scale.ndim):
            first = slice(0, 1)
            index = (slice(None),) * axis + (first,)
            if scale.shape[axis] > 1 and (scale == scale[index]).all() and (shift == shift[index]).all():
                scale, shift = scale[index], shift[index]
        return Affine(scale, shift)

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.scale.ndim

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the map varies."""
        return tuple(axis for axis, size in enumerate(self.scale.shape) if size > 1)

    @property
    def invertible(self) -> bool:
        """Whether no scale is zero."""
        return bool((self.scale != 0).all())

    @property
    def scales(self) -> bool:
        """Whether some scale differs from one."""
        return bool((self.scale != 1).any())

    @property
    def shifts(self) -> bool:
        """Whether some shift differs from zero."""
        return bool((self.shift != 0).any())

    @property
    def is_identity(self) -> bool:
        """Whether the map changes nothing."""
        return not (self.scales or self.shifts)

    def vectors(self, axis: int, size: int) -> tuple[Array, Array] | None:
        """Scale and shift as vectors of `size` entries along `axis`; None if they vary along another axis too.

        >>> Affine([[2.0], [3.0]], 0.0).vectors(1, 2) is None
        True
        """
        if any(varying != axis for varying in self.axes):
            return None
        return (
            np.array(np.broadcast_to(self.scale.reshape(-1), (size,))),
            np.array(np.broadcast_to(self.shift.reshape(-1), (size,))),
        )
