"""Images: reading untrusted files, the packed form, batched augmentation."""

UNLABELED = -1
"""The label of an image that has none, everywhere."""
