from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.data.placing import fits, gather, per_batch, place, select

CPU = torch.device("cpu")
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 4, 5), dtype=np.uint8))


def test_on_the_cpu_images_stay_where_they_are() -> None:
    assert place(IMAGES, device=CPU).data_ptr() == IMAGES.data_ptr()


def test_images_leave_a_gpu_half_of_what_is_free() -> None:
    assert fits(IMAGES, free_bytes=2 * IMAGES.nbytes)
    assert not fits(IMAGES, free_bytes=2 * IMAGES.nbytes - 1)


def test_a_batch_is_gathered_in_its_order() -> None:
    indices = torch.tensor([7, 0, 39, 7])
    assert torch.equal(gather(IMAGES, indices, device=CPU), IMAGES[indices])


def test_the_first_images_are_no_copy_and_others_are() -> None:
    first, others = select(IMAGES, torch.arange(31)), select(IMAGES, torch.tensor([1, 2, 5]))
    assert torch.equal(first, IMAGES[:31])
    assert first.data_ptr() == IMAGES.data_ptr()
    assert torch.equal(others, IMAGES[[1, 2, 5]])
    assert torch.equal(select(IMAGES, torch.tensor([0, 2])), IMAGES[[0, 2]])


@pytest.mark.parametrize(("side", "expected"), [(32, 1000), (224, 55), (1024, 2), (4096, 1)])
def test_large_images_come_in_small_batches(side: int, expected: int) -> None:
    images = torch.empty(1, 1, 1, 1, dtype=torch.uint8).expand(5, 3, side, side)
    assert per_batch(images, at_most=1000) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_images_without_room_on_a_gpu_are_sent_batch_by_batch() -> None:
    gpu, indices = torch.device("cuda"), torch.tensor([7, 0, 39, 7])
    assert place(IMAGES, device=gpu).is_cuda
    for images in (IMAGES, IMAGES.to(gpu)):
        sent = gather(images, indices, device=gpu)
        assert sent.is_cuda
        assert torch.equal(sent.cpu(), IMAGES[indices])
