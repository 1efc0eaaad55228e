"""The HTTP process: parse, call one service function, answer. No torch."""

__version__ = "0.1.0"
