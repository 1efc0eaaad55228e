"""From what the modules of a network put out to maps (B, C, H, W) and features (B, C), whatever their layout."""

from __future__ import annotations

from torch import Tensor, nn

from distill.anatomy import Anatomy, Layout

Size = tuple[int, int]


def stage_map(output: object, anatomy: Anatomy, *, image_size: Size | None = None) -> Tensor:
    """The map (B, C, H, W) in the output of one of ``anatomy.stages``; a view wherever that is possible.

    Args:
        output: what the module put out, a tensor or a sequence that begins with one.
        image_size: (height, width) of the images; needed for tokens of images that are not square.

    Raises:
        ValueError: the output holds no map.
    """
    return to_map(output, anatomy.layout, num_prefix_tokens=anatomy.num_prefix_tokens, image_size=image_size)


def pooling_map(seen: object, anatomy: Anatomy, *, image_size: Size | None = None) -> Tensor:
    """The last map (B, C, H, W) in the input, or with ``pooled_output`` in the output, of ``anatomy.pooling``.

    Arguments and errors are those of :func:`stage_map`.
    """
    return to_map(seen, anatomy.pooling_layout, num_prefix_tokens=anatomy.num_prefix_tokens, image_size=image_size)


def to_map(output: object, layout: Layout, *, num_prefix_tokens: int = 0, image_size: Size | None = None) -> Tensor:
    """A map of a known layout as (B, C, H, W); see :func:`stage_map`."""
    tensor = first_tensor(output)
    if tensor is None or tensor.dim() not in (3, 4):
        raise ValueError(f"no map in {type(output).__name__}" + ("" if tensor is None else f" {list(tensor.shape)}"))
    if tensor.dim() == 3:
        return _tokens_to_map(tensor, num_prefix_tokens, image_size or (1, 1))
    return tensor.permute(0, 3, 1, 2) if layout == "nhwc" else tensor


def from_map(map_BCHW: Tensor, layout: Layout) -> Tensor | None:
    """The inverse of :func:`to_map`; None for tokens, whose prefix a map has lost."""
    if layout == "tokens":
        return None
    return map_BCHW.permute(0, 2, 3, 1) if layout == "nhwc" else map_BCHW


def _tokens_to_map(tokens_BNC: Tensor, num_prefix_tokens: int, image_size: Size) -> Tensor:
    num_tokens = tokens_BNC.shape[1]
    # Some networks append the class token late, so that their earlier blocks have no prefix.
    for num_skipped in (num_prefix_tokens, 0):
        grid = _grid(num_tokens - num_skipped, image_size)
        if grid is not None:
            places_BCN = tokens_BNC[:, num_skipped:].transpose(1, 2)
            return places_BCN.reshape(*places_BCN.shape[:2], *grid)
    raise ValueError(
        f"{num_tokens} tokens, {num_prefix_tokens} of them a prefix, make no grid with the sides of the image"
    )


def _grid(num_places: int, image_size: Size) -> Size | None:
    """(height, width) of a grid of that many places with the ratio of the image's sides, if there is one."""
    height, width = image_size
    rows = round((num_places * height / width) ** 0.5) if num_places > 0 else 0
    columns = round((num_places * width / height) ** 0.5) if num_places > 0 else 0
    return (rows, columns) if num_places > 0 and rows * columns == num_places else None


def first_tensor(output: object) -> Tensor | None:
    """A module's output, or the first part of it where it puts out several; None where that is no tensor."""
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def feature(classifier_input: Tensor) -> Tensor:
    """The penultimate feature (B, C) in the input of a classifier.

    A 1x1 convolution takes it as (B, C, 1, 1); behind attention pooling the first of (B, N, C) is classified.
    """
    if classifier_input.dim() == 3:
        return classifier_input[:, 0]
    return classifier_input.flatten(1)


def weight_and_bias(classifier: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Of a linear layer or a 1x1 convolution: the weight (K, C) and the bias (K,).

    Raises:
        TypeError: it is neither.
    """
    if isinstance(classifier, nn.Linear):
        return classifier.weight, classifier.bias
    if isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1) and classifier.groups == 1:
        return classifier.weight.flatten(1), classifier.bias
    raise TypeError(f"{type(classifier).__name__} is not a linear layer")
