"""The report of a guide's classifiers."""

import json

import numpy as np

from evaluation.reports.classifier_report import save_classifier_report
from evaluation.statistics.attribute_figures import attribute_figures


def test_report_shows_every_attribute_and_which_are_not_guided(tmp_path):
    rng = np.random.default_rng(0)
    truth = {"malignancy": rng.integers(0, 2, 30).astype(float), "texture": rng.integers(1, 6, 30).astype(float)}
    patients = [str(index // 3) for index in range(30)]
    made = {
        name: attribute_figures(
            np.clip(column / 5 + rng.normal(0, 0.3, (2, 2, 30)), 0, 1),
            rng.random((2, 3, 30)) if name == "malignancy" else None,
            column,
            patients,
            [0, 500],
            [0],
            name == "malignancy",
            30,
        )
        for name, column in truth.items()
    }
    save_classifier_report(tmp_path / "report", made, {"texture": "Spearman 0.1"}, {"steps": 3})
    assert (tmp_path / "report/by_noise_level.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "report/report.json").read_text())
    assert content["refused"] == {"texture": "Spearman 0.1"} and content["settings"] == {"steps": 3}
    auroc = made["malignancy"].levels["500"]["AUROC"]
    assert content["figures"]["malignancy"]["levels"]["500"]["AUROC"]["value"] == auroc.value
    text = (tmp_path / "report/report.md").read_text()
    summary = made["malignancy"].summary
    assert f"| malignancy, AUROC | 30 | {summary.value:.2f} ({summary.low:.2f} … {summary.high:.2f}) | – |" in text
    rows = [line for line in text.splitlines() if line.startswith("| texture, Spearman")]
    assert len(rows) == 1 and rows[0].endswith("| – | – | – | no |")
    assert "| malignancy, t = 500 |" in text and (tmp_path / "report/report.html").read_text().count("<img") == 1
