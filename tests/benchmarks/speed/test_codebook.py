"""The two ways to sum agree, and the table is printed."""

import re

from benchmarks.speed import codebook


def test_the_table_has_a_row_for_each_number_of_cells(capsys):
    codebook.main(codebook.CodebookConfig(cells=(50, 200), codes=16, channels=3, repeats=2))  # which compares the sums
    rows = re.findall(r"^\| (\d+) \| [\d.]+ \| [\d.]+ \| \d+ \|$", capsys.readouterr().out, re.MULTILINE)
    assert rows == ["50", "200"]
