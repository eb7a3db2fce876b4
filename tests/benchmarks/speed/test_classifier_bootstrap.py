"""The two ways to resample agree, and the table is printed."""

import re

from benchmarks.speed import classifier_bootstrap


def test_the_table_has_a_row_for_each_number_of_nodules(capsys):
    config = classifier_bootstrap.BootstrapConfig(nodules=(40, 60), levels=2, versions=2, resamples=9, by_itself=9)
    classifier_bootstrap.main(config)  # which compares the figures of all nine
    assert re.findall(r"^\| (\d+) \| \d+ \| [\d.]+ \| \d+ \|$", capsys.readouterr().out, re.MULTILINE) == ["40", "60"]
