"""ONNX files as teachers: what they are is told by the file, not by a name of the zoo."""

ONNX = "onnx"
"""Stands for the architecture of such a teacher."""
