"""scripts/export_layout.py writes a finished set with real scans, and refuses what cannot be meant."""

import json

import pandas as pd
import pytest
from layout_factory import Made, write_made

from foundation.config import launch, parse_config
from scripts.export_layout import ExportConfig, main


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return write_made(tmp_path_factory.mktemp("made"))


def config_of(made: Made, out, *more: str) -> ExportConfig:
    argv = ["--synthetic", str(made.synthetic), "--layout", "nnunet", "--out", str(out), *more]
    return parse_config(ExportConfig, argv)


def test_real_scans_are_mixed_in_and_a_table_says_which_scans_are_of_one_patient(made, tmp_path):
    (tmp_path / "patients.csv").write_text("scan,patient\na.nii.gz,p\nc.nii.gz,p\n")
    real = ["--scans", str(made.scans), "--existing-masks", str(made.masks)]
    main(config_of(made, tmp_path / "out", *real, "--patients", str(tmp_path / "patients.csv"), "--validate", "real"))
    table = pd.read_csv(tmp_path / "out/cases.csv")
    assert table.groupby("patient").case.count().to_dict() == {"p": 4, "sub/b.nii.gz": 2}
    (path,) = (tmp_path / "out/nnUNet_preprocessed").rglob("splits_final.json")
    splits = json.loads(path.read_text())
    assert sorted(name for split in splits for name in split["val"]) == ["real_000000", "real_000001"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--scans", "."], "--scans and --existing-masks belong together"),
        (["--workers", "0"], "workers 0, expected at least 1"),
        (["--folds", "9"], "folds 9, expected 2 to 3, the number of patients"),
        (["--name", "two words"], "name 'two words', expected letters and digits alone"),
        (["--number", "1000"], "number 1000, expected 1 to 999"),
        (["--validate", "real"], "fold 0 has no real case to validate with"),
    ],
)
def test_options_that_do_not_fit_are_named_and_nothing_is_written(made, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        launch(main, config_of(made, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_a_patient_table_of_other_scans_and_masks_of_no_scan_are_refused(made, tmp_path):
    (tmp_path / "patients.csv").write_text("scan,patient\nz.nii.gz,p\n")
    with pytest.raises(ValueError, match=r"patients.csv: scan z.nii.gz is none of these; check its path below --scans"):
        main(config_of(made, tmp_path / "out", "--patients", str(tmp_path / "patients.csv")))
    (tmp_path / "masks").mkdir()
    real = ["--scans", str(made.scans), "--existing-masks", str(tmp_path / "masks")]
    with pytest.raises(ValueError, match=r"--existing-masks .*masks: names the nodules of no scan in"):
        main(config_of(made, tmp_path / "out", *real))
    (tmp_path / "some").mkdir()
    (tmp_path / "some/a.nii.gz").symlink_to(made.scans / "a.nii.gz")
    real = ["--scans", str(tmp_path / "some"), "--existing-masks", str(made.masks)]
    with pytest.raises(ValueError, match=r"--scans .*some: holds no sub/b.nii.gz, which the set was made from"):
        main(config_of(made, tmp_path / "out", *real))
