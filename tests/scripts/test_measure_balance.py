"""scripts/measure_balance.py counts a table of nodules, and counted the one that is shipped."""

import pytest

from evaluation.lesions.balance import TABLES, read_balance
from scripts.measure_balance import BalanceConfig, main


def test_nodules_are_counted_that_are_in_a_class_of_every_attribute(tmp_path, capsys):
    rows = ["5,5,1", "5,5,3", "7,1,5", "50,5,1", "5,,1"]
    (tmp_path / "nodules.csv").write_text("diameter_mm,texture,malignancy\n" + "\n".join(rows))
    main(BalanceConfig(nodules=tmp_path / "nodules.csv", out=tmp_path / "mix.csv"))
    assert "3 of 5 nodules" in capsys.readouterr().out
    share = {str(one): one.share for one in read_balance(str(tmp_path / "mix.csv"))}
    assert share["diameter_mm 4 to 6"] == pytest.approx(2 / 3) and share["texture 1 to 2.5"] == pytest.approx(1 / 3)
    (tmp_path / "nodules.csv").write_text("diameter_mm,texture,malignancy\nlarge,5,1\n")
    with pytest.raises(ValueError, match=r"nodules.csv: column diameter_mm holds text, expected numbers"):
        main(BalanceConfig(nodules=tmp_path / "nodules.csv", out=tmp_path / "mix.csv"))


@pytest.mark.real_data
def test_the_shipped_table_is_that_of_lidc(real_data_dir, tmp_path):
    main(BalanceConfig(nodules=real_data_dir / "lidc_shapes/shapes.csv", out=tmp_path / "lidc.csv"))
    assert (tmp_path / "lidc.csv").read_text() == TABLES["lidc"].read_text()
