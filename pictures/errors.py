"""Why a file is not taken as a picture."""


class PictureError(Exception):
    """The file is not taken; the message says why."""


class UnknownFormatError(PictureError):
    """It is no picture of a known format."""


class TooManyPixelsError(PictureError):
    """It has more pixels than may be decoded."""


class BrokenPictureError(PictureError):
    """It is empty, damaged or incomplete."""
