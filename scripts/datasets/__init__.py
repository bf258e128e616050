"""The data sets: loaded, checked, never committed."""

from scripts.datasets.base import Dataset, load

__all__ = ["Dataset", "load"]
