"""What the API and the worker share."""

__version__ = "0.1.0"
