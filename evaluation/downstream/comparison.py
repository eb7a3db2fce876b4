"""Figures of the arms with intervals over patients and seeds, and their differences to real lesions alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.downstream.experiment import Cell
from evaluation.downstream.tasks import TASKS, Outcome
from evaluation.statistics.resampling import patient_rows

BASE = "real"  # the arm that the others are compared with
Interval = tuple[float, float, float]  # value, 2.5th and 97.5th percentile of its resamples


@dataclass(frozen=True)
class ArmFigure:
    """What one arm reaches at one share of the real lesions.

    Attributes:
        task, arm, fraction: Which.
        seeds: Networks that were trained.
        figure: Mean over the seeds.
        gain: Difference to the arm "real" at this share; None for itself, or where it is not there.
    """

    task: str
    arm: str
    fraction: float
    seeds: int
    figure: Interval
    gain: Interval | None


def arm_figures(
    outcomes: Mapping[Cell, Sequence[Outcome]],
    patients: Mapping[str, Sequence[str]],
    resamples: int,
    random: np.random.Generator,
) -> list[ArmFigure]:
    """All arms of all tasks at all shares, in the order of `outcomes`.

    A resample draws patients and seeds, each with replacement; two arms that are compared have the same draw.

    Args:
        outcomes: Of the cells that are done; in each the test crops of the task, in one order.
        patients: By task, of these test crops.
        resamples: Of the intervals.
        random: Draws them.
    Raises: ValueError: If a cell has another number of test crops than `patients`.
    """
    groups: dict[tuple[str, str, float], list[Sequence[Outcome]]] = {}
    for cell, of_cell in outcomes.items():
        if len(of_cell) != len(patients[cell.task]):
            raise ValueError(f"{cell.file}: {len(of_cell)} test crops, expected {len(patients[cell.task])}")
        groups.setdefault((cell.task, cell.arm, cell.fraction), []).append(of_cell)
    rows = []
    for (task, arm, fraction), seeds in groups.items():
        base = groups.get((task, BASE, fraction)) if arm != BASE else None
        drawn = [_draw(patients[task], len(seeds), random) for _ in range(resamples)]
        own = np.array([_figure(task, seeds, *draw) for draw in drawn])
        everything = (np.arange(len(patients[task])), np.arange(len(seeds)))
        value = _figure(task, seeds, *everything)
        gain = None
        if base is not None:
            paired = base[: len(seeds)]
            fits = len(paired) == len(seeds)
            other = np.array([_figure(task, paired, *draw) for draw in drawn]) if fits else None
            if other is not None:
                gain = _interval(value - _figure(task, paired, *everything), own - other)
        rows.append(ArmFigure(task, arm, fraction, len(seeds), _interval(value, own), gain))
    return rows


def _draw(patients: Sequence[str], seeds: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    of_patient = list(patient_rows(patients).values())
    chosen = random.integers(0, len(of_patient), len(of_patient))
    return np.concatenate([of_patient[index] for index in chosen]), random.integers(0, seeds, seeds)


def _figure(task: str, seeds: Sequence[Sequence[Outcome]], rows: np.ndarray, which: np.ndarray) -> float:
    return float(np.mean([TASKS[task].figure([seeds[seed][row] for row in rows]) for seed in which]))


def _interval(value: float, resampled: np.ndarray) -> Interval:
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return value, float(low), float(high)
