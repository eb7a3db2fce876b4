"""prepare, serve and analyse a reading study, on phantom nodules."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from evaluation.reading.answers import Answer, AnswerFile, read_answers
from evaluation.reading.study import KEY, load_study, open_key, reading_order
from foundation.config import launch, parse_config


def run(command: str, *argv: object) -> None:
    from scripts.reading_study import COMMANDS, main

    launch(main, parse_config(COMMANDS[command], list(map(str, argv))))


@pytest.fixture
def study_folder(phantom_dataset, tmp_path) -> Path:
    folder, sets = tmp_path / "study", ("--real", phantom_dataset, "--synthetic", phantom_dataset)
    run("prepare", *sets, "--training", 2, "--repeats", 0.5, "--out", folder)
    return folder


def answered(folder: Path, reader: str, count: int | None = None) -> None:
    """Every case called synthetic if its number is even."""
    file = AnswerFile(folder / "answers.csv")
    for position, showing in enumerate(reading_order(load_study(folder), reader)[:count], 1):
        verdict = ("synthetic", "real")[showing.case % 2]
        file.append(
            Answer(reader, position, showing.case, showing.kind, verdict, 1 + showing.case % 5, 2.0 * position, "")
        )


def test_a_sheet_is_drawn_and_its_answers_are_read(phantom_dataset, tmp_path, capsys):
    out = tmp_path / "sheet"
    run("prepare", "--real", phantom_dataset, "--synthetic", phantom_dataset, "--sheet", "true", "--out", out)
    assert {path.name for path in out.iterdir()} == {"page_1.png", KEY}
    assert b"real" not in (out / KEY).read_bytes()  # sealed
    run("analyse", "--study", out, "--synthetic-cases", "[1,2,3]")
    printed = capsys.readouterr().out
    assert "6 cases" in printed and "recognised: " in printed and "difference: " in printed
    with pytest.raises(SystemExit, match="synthetic_cases has 13, expected numbers from 1 to 6"):
        run("analyse", "--study", out, "--synthetic-cases", "[13]")
    with pytest.raises(SystemExit, match="prepare the study first"):
        run("analyse", "--study", tmp_path, "--synthetic-cases", "[1]")
    with pytest.raises(SystemExit, match=r"holds no study\.json"):
        run("serve", "--study", out, "--readers", "anna")


def test_a_study_is_prepared_and_its_report_has_the_figures_of_the_answers(study_folder, tmp_path):
    study, key = load_study(study_folder), {case.case: case for case in open_key(study_folder)}
    assert (len(study.cases), study.repeats, len(study.training)) == (4, 2, 2)
    assert len(study.volumes) == 6 and {np.sign(volume.max() + 900) for volume in study.volumes} == {1}
    for reader in ("anna", "ben", "carl"):
        answered(study_folder, reader)
    run("analyse", "--study", study_folder, "--out", tmp_path / "report")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    right = [key[case].real == (case % 2 == 1) for case in study.cases]
    for column in ("anna", "pooled"):
        assert report["figures"][column]["accuracy"][0] == pytest.approx(np.mean(right))
    assert report["agreement_between"]["all (Fleiss)"] in ([1, 4], [None, 4])
    assert report["agreement_within"]["ben"][0][0] == 1 and report["agreement_within"]["ben"][2] == 2
    page = (tmp_path / "report" / "report.html").read_text()
    assert "aim of 30%" in page and "By diameter" in page and page.count("data:image/png") >= 1
    with (tmp_path / "report" / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(read_answers(study_folder / "answers.csv")) == 3 * 8
    assert all(row["real"] == str(key[int(row["case"])].real) for row in rows)


def test_the_key_stays_closed_until_every_reader_is_done(study_folder, tmp_path):
    with pytest.raises(SystemExit, match=r"answers\.csv: no such file; serve the study first"):
        run("analyse", "--study", study_folder, "--out", tmp_path / "report")
    answered(study_folder, "anna")
    answered(study_folder, "ben", 7)
    with pytest.raises(SystemExit, match=re.escape("not finished: ben (1 left)")):
        run("analyse", "--study", study_folder, "--out", tmp_path / "report")
    run("analyse", "--study", study_folder, "--out", tmp_path / "report", "--unfinished", "true")
    assert "ben: 1 cases are not answered yet" in (tmp_path / "report" / "report.md").read_text()


def test_a_study_is_served_once_at_a_time(study_folder):
    with FileLock(study_folder / ".serving.lock"), pytest.raises(SystemExit, match="another process serves this study"):
        run("serve", "--study", study_folder, "--readers", "anna", "--port", 0)
    with pytest.raises(SystemExit, match="no reader; give --readers"):
        run("serve", "--study", study_folder, "--port", 0)


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("prepare", ("--out", "out", "--repeats", "0.6"), "repeats 0.6: expected at least 2 cases"),
        ("prepare", ("--out", "out", "--training", "1"), "training 1, repeats 0.2: expected"),
        ("prepare", ("--out", "out", "--field-mm", "0"), "field_mm 0.0, expected 1 to 512"),
        ("analyse", (), "expected either --out, for a study that was served, or --synthetic-cases"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, command, options, sentence):
    sets = ("--real", tmp_path, "--synthetic", tmp_path) if command == "prepare" else ("--study", tmp_path)
    with pytest.raises(SystemExit) as error:
        run(command, *sets, *options)
    assert sentence in str(error.value) and "\n" not in str(error.value)
