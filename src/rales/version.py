"""The version of the package; `rales.__version__` too."""

__version__ = "0.1.0"
