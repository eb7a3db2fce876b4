"""The blinded sheet on phantom nodules."""

import pytest

from benchmarks.quality.blinded_sheet import KEY, SheetConfig, main


def test_a_sheet_is_drawn_and_its_answers_are_read(nodules, tmp_path, capsys):
    out = tmp_path / "sheet"
    main(SheetConfig(out=out, real=nodules, synthetic=nodules, seed=1))
    assert {path.name for path in out.iterdir()} == {"page_1.png", KEY}
    assert b"real" not in (out / KEY).read_bytes()  # sealed
    main(SheetConfig(out=out, synthetic_cases=(1, 2, 3)))
    printed = capsys.readouterr().out
    assert "12 cases" in printed and "recognised: " in printed and "difference: " in printed
    with pytest.raises(ValueError, match="synthetic_cases has 13, expected numbers from 1 to 12"):
        main(SheetConfig(out=out, synthetic_cases=(13,)))
    with pytest.raises(ValueError, match="draw the sheet first"):
        main(SheetConfig(out=tmp_path, synthetic_cases=(1,)))


def test_neither_sets_nor_answers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected real and synthetic"):
        SheetConfig(out=tmp_path)
