"""The gap of balls at known distances from a wall."""

import re

import numpy as np
import SimpleITK as sitk

from benchmarks.choices import wall_gaps


def test_each_ball_is_counted_at_its_distance_from_the_wall(tmp_path, capsys):
    axis = np.arange(40)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    for number, gap in enumerate((0, 2, 2, 8)):
        inside = np.sqrt((z - 20) ** 2 + (y - 20) ** 2 + (x - (10 + 4 + gap)) ** 2) < 4.2
        ct_hu = np.where(inside, 0, np.where(x < 10, 40, -850)) + np.random.default_rng(0).normal(0, 5, x.shape)
        for kind, array in (("ct", ct_hu.astype(np.int16)), ("mask", inside.astype(np.uint8))):
            sitk.WriteImage(sitk.GetImageFromArray(array), tmp_path / f"{number}_{kind}.nii.gz")
    wall_gaps.main(wall_gaps.Config(tmp_path))
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \(\d+ %\) \|", capsys.readouterr().out, re.MULTILINE)
    assert rows == [("below 1", "1"), ("1 to 3", "2"), ("3 to 6", "0"), ("6 to 10", "1"), ("from 10", "0")]
