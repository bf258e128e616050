"""What can be wrong with a bundle."""


class BundleError(Exception):
    """A bundle is missing, half-written, of an unknown schema, or its files are not those it was made with."""
