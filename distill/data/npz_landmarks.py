"""The arrays of an .npz with landmarks as a data set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from distill.data.archive import shown
from distill.data.decoding import check_broken
from distill.data.npz import read_array, read_images
from distill.data.npz_landmarks_layout import NpzLandmarksLayout, Pair, npz_landmarks_layout
from distill.data.raw_landmarks import PointSplit, RawLandmarks, assemble_landmarks, fault
from distill.data.reading import Reading
from distill.data.source import Source
from distill.errors import InputError
from distill.markup import Markup


def read_npz_landmarks(source: Source, how: Reading) -> RawLandmarks:
    """Images and points of both splits; images stay as they are.

    Points are x and y in pixels, with the centre of the first pixel at 0, as in ``image[y, x]``: they become
    (x + 1/2) / width. Faces whose points are not sound are left out and listed. Without ``normaliser``, errors
    are divided by the size of the box about the points.

    Raises:
        InputError: as :func:`distill.data.npz_landmarks_layout.npz_landmarks_layout`; ``dataset_unreadable`` for
            pairs that name no points, or when too many of the faces are not sound.
    """
    layout = npz_landmarks_layout(source)
    markup = _markup(source, layout)
    skipped: list[dict[str, str]] = []
    train = _split(source, layout, layout.train, markup, skipped, how)
    test = _split(source, layout, layout.test, markup, skipped, how) if layout.test else None
    total = layout.train[0].shape[0] + (layout.test[0].shape[0] if layout.test else 0)
    check_broken(skipped, of=total, max_share=how.max_broken_share, what="faces")
    unused = ", ".join(shown(key) for key in layout.unused[:10])
    return assemble_landmarks(
        train,
        test=test,
        markup=markup,
        seed=how.seed,
        skipped=skipped,
        notes=[f"Nothing was made of the arrays {unused}."] if unused else [],
    )


def _markup(source: Source, layout: NpzLandmarksLayout) -> Markup:
    pairs = None if layout.flip_pairs is None else read_array(source, layout.flip_pairs).tolist()
    normaliser = "box" if layout.normaliser is None else read_array(source, layout.normaliser).tolist()
    try:
        return Markup.from_json({"num_points": layout.num_points, "flip_pairs": pairs, "normaliser": normaliser})
    except ValueError as error:
        raise InputError(
            "dataset_unreadable",
            f"flip_pairs or normaliser do not fit: {error}",
            hint="Points are counted from 0, and none is in two pairs.",
        ) from error


def _split(
    source: Source,
    layout: NpzLandmarksLayout,
    pair: Pair,
    markup: Markup,
    skipped: list[dict[str, str]],
    how: Reading,
) -> PointSplit:
    images = read_images(source, pair[0], how, channels_last=layout.channels_last)
    height, width = images.shape[2:]
    points = (read_array(source, pair[1]).astype(np.float64) + 0.5) / (width, height)
    faults = [fault(points_LD, markup, image_size=(height, width)) for points_LD in points]
    skipped += [
        {"path": f"{pair[0].key}[{index}]", "reason": wrong} for index, wrong in enumerate(faults) if wrong is not None
    ]
    sound: NDArray[np.bool_] = np.array([wrong is None for wrong in faults])
    return PointSplit(
        images=images.chosen(sound),
        points=points[sound].astype(np.float32),
        groups=np.flatnonzero(sound).astype(np.int64),
    )
