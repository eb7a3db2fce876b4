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

    A resample draws patients and seeds, each with replacement; two arms that are compared have the same draw
    and the same seeds.

    Args:
        outcomes: Of the cells that are done; in each the test crops of the task, in one order.
        patients: By task, of these test crops.
        resamples: Of the intervals.
        random: Draws them.
    Raises: ValueError: If a cell has another number of test crops than `patients`.
    """
    groups: dict[tuple[str, str, float], dict[int, Sequence[Outcome]]] = {}
    for cell, of_cell in outcomes.items():
        if len(of_cell) != len(patients[cell.task]):
            raise ValueError(f"{cell.file}: {len(of_cell)} test crops, expected {len(patients[cell.task])}")
        groups.setdefault((cell.task, cell.arm, cell.fraction), {})[cell.seed] = of_cell

    def interval(task: str, *compared: Sequence[Sequence[Outcome]]) -> Interval:
        """Of the first, minus the second if there is one."""
        draws = [_draw(patients[task], len(compared[0]), random) for _ in range(resamples)]
        everything = (np.arange(len(patients[task])), np.arange(len(compared[0])))
        values = [[_figure(task, seeds, *draw) for seeds in compared] for draw in [everything, *draws]]
        first, *resampled = [one[0] - sum(one[1:]) for one in values]
        low, high = np.nanpercentile(resampled, (2.5, 97.5))
        return first, float(low), float(high)

    rows = []
    for (task, arm, fraction), own in groups.items():
        base = groups.get((task, BASE, fraction), {}) if arm != BASE else {}
        common = sorted(own.keys() & base.keys())
        gain = interval(task, [own[seed] for seed in common], [base[seed] for seed in common]) if common else None
        rows.append(ArmFigure(task, arm, fraction, len(own), interval(task, list(own.values())), gain))
    return rows


def _draw(patients: Sequence[str], seeds: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    of_patient = list(patient_rows(patients).values())
    chosen = random.integers(0, len(of_patient), len(of_patient))
    return np.concatenate([of_patient[index] for index in chosen]), random.integers(0, seeds, seeds)


def _figure(task: str, seeds: Sequence[Sequence[Outcome]], rows: np.ndarray, which: np.ndarray) -> float:
    return float(np.mean([TASKS[task].figure([seeds[seed][row] for row in rows]) for seed in which]))
