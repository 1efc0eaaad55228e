"""How networks start, as the CRD benchmark starts them; what is not named here has PyTorch's own start."""

from __future__ import annotations

from torch import nn


def init_convolutions(network: nn.Module) -> None:
    """He et al. (2015): normal with variance 2 / fan-out, and biases 0.

    Batch norms keep PyTorch's own start, weight 1 and bias 0, which is the benchmark's too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(classifier: nn.Linear) -> None:
    """Normal with standard deviation 0.01, and biases 0."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)
