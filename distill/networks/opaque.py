"""Networks that torch can run but not look into."""

from __future__ import annotations

from torch import Tensor, nn

from distill.architectures import ImageInput


class OpaqueNetwork(nn.Module):
    """One whose body is not made of torch's modules; it can teach, not learn."""

    num_parameters: int
    input: ImageInput
    """The images that it takes."""
    squashed: str | None
    """What it does to its logits at last, such as ``Softmax``; left out here."""
    metadata: dict[str, str]
    """What its file says of itself."""
    order: Tensor | None = None
    """In which order its logits are to be answered; as it computes them if None."""
