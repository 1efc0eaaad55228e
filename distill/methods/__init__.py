"""Ways to distil: one class a file."""
