"""Images: reading untrusted files, the packed form, batched augmentation."""
