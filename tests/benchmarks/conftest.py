"""Fixtures of the benchmarks' tests."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import joblib
import pytest

MEASURED: dict[str, Any] = {}  # by the hash of what was measured


@pytest.fixture
def forked_processes(monkeypatch):
    """What a benchmark starts is forked, and so need not import the libraries; its seconds are not a user's."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: forked.context)
    monkeypatch.setattr(subprocess, "Popen", forked.Popen)
    monkeypatch.setattr(os, "wait4", forked.Popen.wait4)


@pytest.fixture
def measured_once(monkeypatch):
    """Figures of a lesion, and a detector of two sets, are kept for all runs of this process.

    The detector has one repetition and few resamples.
    """
    from evaluation.lesions import detector, features

    def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
        def find(*given: Any) -> Any:
            key = joblib.hash((function.__name__, given))
            if key not in MEASURED:
                MEASURED[key] = function(*given)
            return MEASURED[key]

        find.__name__ = function.__name__
        return find

    monkeypatch.setattr(detector, "REPEATS", 1)
    monkeypatch.setattr(detector, "RESAMPLES", 50)
    for module, name in ((detector, "detector_figures"), (detector, "held_out_scores"), (features, "_measure_one")):
        monkeypatch.setattr(module, name, remembered(getattr(module, name)))


@pytest.fixture
def nodules(chain, tmp_path) -> Path:
    """Twelve validation nodules of the phantom, each of a patient of its own, and six to train on."""
    from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset

    splits = [load_nodules(chain.nodules, split) for split in ("validation", "train")]
    rows = [read_nodule(split, number) for split in splits for number in range(6)]
    held = [{**row, "patient_id": f"patient{i}", "split": "validation"} for i, row in enumerate(rows)]
    train = [{**row, "nodule_id": f"t{i}", "patient_id": f"t{i}", "split": "train"} for i, row in enumerate(rows[:6])]
    save_nodule_dataset(iter(held + train), tmp_path / "nodules", rows[0]["ct_hu"].shape[0])
    return tmp_path / "nodules"
