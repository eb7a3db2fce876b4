import pytest

from imaging.dataset.label_policy import exclusion_reason, label_table, malignancy_label


@pytest.mark.parametrize(
    ("rating", "proposal", "lsdm"),
    [
        (1.0, "benign", "benign"),
        (2.0, "benign", "benign"),
        (2.25, "", ""),
        (3.0, "", "malignant"),
        (3.75, "", "malignant"),
        (4.0, "malignant", "malignant"),
        (5.0, "malignant", "malignant"),
        (None, "", ""),
    ],
)
def test_policies_draw_their_lines_where_they_say(rating, proposal, lsdm):
    assert malignancy_label(rating, "exclude_between") == proposal
    assert malignancy_label(rating, "malignant_from_3") == lsdm
    assert bool(exclusion_reason(rating, "exclude_between")) == (proposal == "")
    assert exclusion_reason(rating, "keep_all") == "" and malignancy_label(rating, "keep_all") == lsdm


def test_an_exclusion_names_the_rating_and_the_limits():
    reason = exclusion_reason(3.25, "exclude_between")
    assert reason == "mean malignancy 3.25 lies between 2 and 4 (label policy exclude_between)"
    with pytest.raises(ValueError, match="label policy 'half'"):
        malignancy_label(3, "half")


def test_the_table_counts_every_nodule_once_and_each_policy():
    ratings = [1, 2, 2.25, 2.5, 2.75, 3, 3.25, 3.5, 3.75, 4, 5, None]
    lines = label_table(ratings, [1, 2, 3, 4, 4, 3, 2, 1, 5, 4, 4, None]).splitlines()
    cells = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in lines if line}
    by_rating = [row for name, row in cells.items() if name[0].isdigit() or name.startswith(("above", "not"))]
    assert sum(int(row[-1]) for row in by_rating) == len(ratings)
    assert all(sum(map(int, row[:-1])) == int(row[-1]) for row in by_rating)
    assert cells["3"] == ["0", "0", "1", "0", "0", "1"]
    assert cells["not rated"] == ["0", "0", "0", "0", "1", "1"]
    assert cells["exclude_between"] == ["2", "2", "8"]
    assert cells["malignant_from_3"] == ["2", "6", "4"]
    assert cells["rounded"] == ["3", "4", "5"]
