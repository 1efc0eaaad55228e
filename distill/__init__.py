"""The training core: pure PyTorch; knows no web, queue, database or environment."""
