from dataclasses import replace

import pytest

from evaluation.guided.cost import CostRow, goal_sentences, is_beyond
from evaluation.guided.requested_vs_achieved import ClassRow, RankRow
from evaluation.lesions.set_comparison import DistanceRow, FloorRow


def distance(metric: str, value: float | None, high: float = 1.2, ratio: float | None = None) -> DistanceRow:
    floor = None if value is None else FloorRow(metric, (8, 8), 10, 1.0, None, 0.8, high)
    return DistanceRow("m", metric, True, 16, 32, 0.5, value=value, floor=floor, ratio=ratio)


def cost(scale: float, gabor: float, attribute: str = "malignancy") -> CostRow:
    rows = [distance("Gabor WD, standardised", gabor, ratio=gabor), distance("GLCM WD, standardised", 1.0, ratio=1.0)]
    return CostRow(attribute, scale, [*rows, distance("Fréchet 3D", 9.0, ratio=9.0)])


def classes(scale: float, equal_size: float) -> ClassRow:
    return ClassRow(scale, 16, 0.6, 0.5, 0.7, equal_size, 0.5, 0.9, 0.7, 0.6, 0.8, 0.5, 0.5)


def ranks(scale: float, rho: float | None) -> RankRow:
    return RankRow("mean_hu", scale, 80, rho, None, None, None, 1.0, 10.0, {-100.0: -90.0})


def test_a_distance_is_beyond_where_it_exceeds_the_splits_of_real_vs_real():
    assert is_beyond(distance("Gabor WD, standardised", 1.21)) and not is_beyond(distance("Gabor WD", 1.2))
    assert not is_beyond(distance("Gabor WD, standardised", None))
    surely = replace(distance("Gabor WD", 1.1), ratio=1.4, low=1.02, high=1.9)
    assert is_beyond(surely) and not is_beyond(replace(surely, low=0.98))
    row = cost(2, 1.5)
    assert row.beyond == ["Gabor WD, standardised"] and row.texture_ratio == pytest.approx(1.25)
    assert row.distance("Fréchet 3D").value == 9.0 and row.distance("FID") is None
    assert CostRow("malignancy", 1).texture_ratio is None and CostRow("malignancy", 1).beyond == []


@pytest.mark.parametrize(
    ("gabor", "aurocs", "verdict"),
    [
        ((1.0, 1.1), (0.5, 0.9), "reached at scale 2."),
        ((1.0, 1.5), (0.5, 0.9), "the AUROC is reached at scale 2, but not with all texture distances in range."),
        ((1.0, 1.0), (0.5, 0.7), "not reached; the highest is 0.70 at scale 2."),
    ],
)
def test_malignancy_is_reached_where_the_judge_is_and_all_textures_are_in_range(gabor, aurocs, verdict):
    scales = (0, 2)
    found = goal_sentences(
        [classes(s, a) for s, a in zip(scales, aurocs, strict=True)],
        [],
        [cost(s, g) for s, g in zip(scales, gabor, strict=True)] + [cost(2, 0.5, "mean_hu")],
    )
    assert len(found) == 1 and f": {verdict} At scale 2 the judge calls 50% of the benign" in found[0]


def test_a_range_that_was_not_measured_is_not_called_left():
    for costs in ([], [CostRow("malignancy", 2)], [cost(2, 1.0, "mean_hu")]):
        (found,) = goal_sentences([classes(2, 0.9)], [], costs)
        assert "reached at scale 2; texture distances to real vs real were not measured." in found


def test_hu_is_reached_by_its_rank_correlation_alone():
    assert goal_sentences([], [ranks(0, None)], []) == []
    assert goal_sentences([], [ranks(0, None), ranks(1, 0.95)], [])[0].endswith("reached at scale 1.")
    assert goal_sentences([], [ranks(1, 0.5), ranks(2, 0.7)], [])[0].endswith("the highest is 0.70 at scale 2.")
