"""One router a file; each route translates and calls one service function."""
