"""What the compiler can say no with."""


class FoldError(Exception):
    """Base of every error that the compiler raises on purpose."""


class InputError(FoldError):
    """The given model cannot be read, is not valid ONNX, or is older than the compiler understands."""


class VerificationError(FoldError):
    """The folded graph is not the same function as its reference."""
