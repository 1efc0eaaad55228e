"""What stands in the place of a name of the zoo where a teacher's file tells what it is."""

ONNX = "onnx"
"""The architecture of a teacher that is an ONNX file."""

AUTO = "auto"
"""The architecture of a teacher whose file is yet to tell it."""
