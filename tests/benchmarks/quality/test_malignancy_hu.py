"""The table of real lesions' density by malignancy, on phantom nodules."""

import numpy as np
import pytest

from benchmarks.quality import malignancy_hu
from benchmarks.quality.malignancy_hu import CLASSES, EDGES_MM, Config, main
from imaging.dataset.nodules import load_nodules, read_nodule


@pytest.mark.slow
def test_each_lesion_is_counted_in_the_row_of_its_size_and_class(nodules, capsys, monkeypatch):
    monkeypatch.setattr(malignancy_hu, "FEWEST", 1)
    main(Config(data=nodules, split="validation"))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    lesions = [read_nodule(load_nodules(nodules, "validation"), index) for index in range(12)]
    low, high = EDGES_MM[2], EDGES_MM[3]
    for name, (least, most) in CLASSES.items():
        of_class = [lesion for lesion in lesions if least <= lesion["malignancy"] <= most]
        assert sum(int(row[2]) for row in rows if row[1] == name) == len(of_class)
        volumes = [(lesion["lesion_mask"] > 0).sum() * np.prod(lesion["spacing_mm"]) for lesion in of_class]
        expected = sum(low <= (6 * volume / np.pi) ** (1 / 3) < high for volume in volumes)
        found = [int(row[2]) for row in rows if row[:2] == [f"{low:g} to {high:g}", name]]
        assert sum(found) == expected
