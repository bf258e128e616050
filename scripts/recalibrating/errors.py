"""What can be wrong with a recalibration."""

from collections.abc import Sequence

from bundle import GuardResult


class RecalibrationError(Exception):
    """The bundle or the images cannot be used; the message says why."""


class RefusedError(RecalibrationError):
    """A guard rail refused; `guards` are all that were tested."""

    def __init__(self, guards: Sequence[GuardResult]) -> None:
        self.guards = tuple(guards)
        super().__init__("; ".join(guard.text for guard in guards if not guard.passed))
