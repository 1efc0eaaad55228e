"""The HTTP process: parse, call one service function, answer. No torch."""
