"""The version, on its own so that everything can ask for it."""

__version__ = "0.1.0"
