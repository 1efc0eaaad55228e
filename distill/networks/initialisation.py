from __future__ import annotations

from torch import nn


def init_convolutions(network: nn.Module) -> None:
    """He et al. (2015): normal with variance 2 / fan-out, as the CRD benchmark does for both families.

    Batch norms keep PyTorch's own start, weight 1 and bias 0, which is the benchmark's too.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
