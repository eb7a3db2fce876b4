"""Blurred copies of phantom lesions against other lesions."""

import pytest

from benchmarks.quality import evaluation_blur
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset


@pytest.mark.slow
def test_a_strong_blur_is_farther_from_real_lesions_than_a_weak_one(nodules, tmp_path, capsys):
    splits = {"test": load_nodules(nodules, "validation"), "train": load_nodules(nodules, "train")}
    rows = [
        {**read_nodule(given, index), "split": split} for split, given in splits.items() for index in range(len(given))
    ]
    save_nodule_dataset(iter(rows), tmp_path / "data", rows[0]["ct_hu"].shape[0])
    data = tmp_path / "data"
    evaluation_blur.main(
        evaluation_blur.BlurConfig(real=data, train=data, sigmas_mm=(0.5, 4.0), repeats=10, permutations=19)
    )
    printed = capsys.readouterr().out
    assert printed.startswith("12 lesions") and "opened" in printed
    gabor = next(line.split(" | ") for line in printed.splitlines() if line.startswith("| Gabor WD, standardised"))
    weak, strong = (float(cell.split(" ×")[0]) for cell in gabor[2:4])
    assert strong > weak
