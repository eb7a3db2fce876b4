import numpy as np
import pytest
from lidc_factory import outline
from skimage.draw import disk

from imaging.lidc.consensus import ReaderMask, agree, group_marks, interior, overlap, rasterise
from imaging.lidc.xml import RATING_ELEMENTS, Contour, Mark

SHAPE = (6, 40, 50)
NO_RATINGS = dict.fromkeys(RATING_ELEMENTS)


def make_mark(*contours, reader=0, **ratings):
    return Mark(reader, "made", NO_RATINGS | ratings, tuple(contours))


def make_contour(points_xy, z=2, inclusion=True):
    return Contour("", float(z), inclusion, np.array(points_xy))


def by_z(contour):
    return int(contour.z_mm)


def on_grid(reader_mask):
    volume = np.zeros(SHAPE, bool)
    box = tuple(slice(s, s + n) for s, n in zip(reader_mask.start, reader_mask.mask.shape, strict=True))
    volume[box] = reader_mask.mask
    return volume


def make_box(reader, start, size, **ratings):
    return ReaderMask(make_mark(reader=reader, **ratings), start, np.ones(size, bool))


def test_the_outline_itself_is_not_part_of_the_nodule():
    ring = [(c, r) for c in range(10, 15) for r in range(20, 26) if c in (10, 14) or r in (20, 25)]
    ordered = sorted(ring, key=lambda p: np.arctan2(p[1] - 22.5, p[0] - 12))
    mask, empty = rasterise(make_mark(make_contour(ordered)), by_z, SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[2, 21:25, 11:14] = True
    np.testing.assert_array_equal(on_grid(mask), expected)
    assert mask.start == (2, 21, 11) and empty == ()


def test_an_outline_drawn_around_a_shape_gives_the_shape_back():
    rng = np.random.default_rng(0)
    for _ in range(20):
        image = np.zeros(SHAPE[1:], bool)
        for _ in range(3):
            image[disk(rng.uniform((17, 22), (23, 28)), rng.uniform(3, 8), shape=image.shape)] = True
        mask, _ = rasterise(make_mark(make_contour(outline(image))), by_z, SHAPE)
        np.testing.assert_array_equal(on_grid(mask)[2], image)


def test_corner_points_are_joined_by_straight_lines():
    sparse, _, _ = interior(np.array([(0, 0), (8, 0), (8, 6), (0, 6)]))
    assert sparse.sum() == 7 * 5


def test_a_hole_is_taken_away_together_with_its_outline():
    outer = make_contour([(10, 10), (20, 10), (20, 20), (10, 20)])
    hole = make_contour([(13, 13), (16, 13), (16, 16), (13, 16)], inclusion=False)
    mask, _ = rasterise(make_mark(hole, outer), by_z, SHAPE)
    expected = np.zeros(SHAPE, bool)
    expected[2, 11:20, 11:20] = True
    expected[2, 13:17, 13:17] = False
    np.testing.assert_array_equal(on_grid(mask), expected)


def test_outlines_without_area_are_reported_and_a_nodule_of_them_refused():
    full, thin = make_contour([(10, 10), (14, 10), (14, 14), (10, 14)]), make_contour([(10, 10), (14, 10)], z=3)
    mask, empty = rasterise(make_mark(full, thin), by_z, SHAPE)
    assert mask.mask.shape == (1, 3, 3) and empty == ("outline of 2 points on slice 3 encloses no pixel",)
    with pytest.raises(ValueError, match="zero area"):
        rasterise(make_mark(thin), by_z, SHAPE)


@pytest.mark.parametrize("points", [[(-1, 3), (5, 3), (5, 9)], [(44, 3), (50, 3), (50, 9)], [(4, 38), (9, 40)]])
def test_an_outline_outside_the_image_is_refused(points):
    with pytest.raises(ValueError, match="outline outside the image"):
        rasterise(make_mark(make_contour(points)), by_z, SHAPE)


def test_overlap_is_the_dice_coefficient_of_the_whole_volumes():
    rng = np.random.default_rng(1)
    for _ in range(20):
        boxes = [
            ReaderMask(make_mark(), tuple(rng.integers(0, 3, 3).tolist()), rng.random(rng.integers(1, 4, 3)) < 0.6)
            for _ in range(2)
        ]
        if not any(box.mask.any() for box in boxes):
            continue
        a, b = map(on_grid, boxes)
        assert overlap(*boxes) == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))


def test_marks_of_one_nodule_are_grouped_and_never_two_of_one_reader():
    marks = [
        make_box(0, (1, 1, 1), (2, 4, 4)),
        make_box(1, (1, 2, 2), (2, 4, 4)),
        make_box(1, (1, 7, 1), (2, 4, 4)),
        make_box(2, (1, 1, 1), (2, 9, 4)),  # covers both nodules, the first one better
        make_box(0, (4, 30, 30), (1, 2, 2)),
    ]
    groups = group_marks(marks)
    assert [[marks.index(m) for m in group] for group in groups] == [[0, 1, 3], [2], [4]]
    for group in groups:
        assert len({m.mark.reader for m in group}) == len(group)


def test_consensus_union_and_single_reader_masks():
    group = [
        make_box(0, (0, 0, 0), (1, 1, 4), malignancy=5, texture=4),
        make_box(1, (0, 0, 1), (1, 1, 4), malignancy=4),
        make_box(2, (0, 0, 2), (1, 1, 4), malignancy=4),
        make_box(3, (0, 0, 3), (1, 1, 4), malignancy=2, texture=3),
    ]
    votes = np.array([1, 2, 3, 4, 3, 2, 1])
    for level, least in ((0.25, 1), (0.5, 2), (0.75, 3), (1.0, 4), (0.51, 3)):
        np.testing.assert_array_equal(agree(group, "consensus", level).mask[0, 0], votes >= least)
    np.testing.assert_array_equal(agree(group, "union").mask[0, 0], votes >= 1)
    np.testing.assert_array_equal(agree(group, "single").mask[0, 0], np.arange(7) < 4)
    nodule = agree(group)
    assert nodule.start == (0, 0, 0) and nodule.ratings["malignancy"] == 3.75
    assert nodule.ratings["texture"] == 3.5 and nodule.ratings["margin"] is None
    with pytest.raises(ValueError, match=r"consensus level 0\.0"):
        agree(group, "consensus", 0.0)
    with pytest.raises(ValueError, match="mask policy 'most'"):
        agree(group, "most")


def test_a_third_of_three_readers_is_one_reader_in_spite_of_rounding():
    group = [make_box(r, (0, 0, r), (1, 1, 1)) for r in range(3)]
    assert agree(group, "consensus", 1 / 3).mask.sum() == 3
