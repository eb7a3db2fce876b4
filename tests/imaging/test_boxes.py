"""Boxes of voxels: the smallest that hold a mask, against a search of all voxels, and those around a point."""

import numpy as np
import pytest

from imaging.boxes import mask_box, point_box


@pytest.mark.parametrize("shape", [(7,), (5, 9), (6, 8, 11)])
def test_a_box_holds_the_mask_and_no_plane_more(shape):
    rng = np.random.default_rng(len(shape))
    for voxels in (1, 2, 5):
        mask = np.zeros(shape, np.int16)
        mask[tuple(rng.integers(0, size, voxels) for size in shape)] = -3  # a weight or a label, not 0
        indices = np.argwhere(mask)
        first, last = indices.min(axis=0).tolist(), indices.max(axis=0).tolist()
        assert mask_box(mask) == tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))


def test_a_margin_ends_where_the_volume_does():
    mask = np.zeros((6, 8, 11), bool)
    mask[1:3, 4, 9] = True
    assert mask_box(mask, 2) == (slice(0, 5), slice(2, 7), slice(7, 11))
    assert mask_box(mask, (0, 1, 20)) == (slice(1, 3), slice(3, 6), slice(0, 11))


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="the lesion mask is empty, expected at least one voxel above 0"):
        mask_box(np.zeros((3, 4, 5)))


def test_the_box_around_a_point_has_every_voxel_in_reach_and_at_most_one_beyond():
    shape, spacing_mm, point, reach_mm = (20, 30, 40), (2.5, 1.0, 0.7), (4.3, 15.0, 38.6), 6.0
    box = point_box(shape, point, reach_mm, spacing_mm)
    for size, mm, at, along in zip(shape, spacing_mm, point, box, strict=True):
        inside = [index for index in range(size) if abs(index - at) * mm <= reach_mm]
        assert along.start <= inside[0] and along.stop > inside[-1]
        assert inside[0] - along.start <= 1 and along.stop - 1 - inside[-1] <= 1
        assert along.start >= 0 and along.stop <= size
