"""One cell of the downstream experiment after the other: task, arm, share of the real lesions, seed. Resumable."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from evaluation.downstream.arms import ARMS, draw_batch
from evaluation.downstream.crops import Crop, pasted, share_of_patients
from evaluation.downstream.tasks import EDGE, TASKS, Outcome
from foundation.atomic import write_atomically
from foundation.draws import generator


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        task, arm: Keys of `TASKS` and `ARMS`.
        fraction: Share of the real training patients.
        seed: Of weights, batches and the choice of patients.
    """

    task: str
    arm: str
    fraction: float
    seed: int

    @property
    def file(self) -> str:
        """Name of its outcomes."""
        return f"{self.task}_{self.arm}_{self.fraction:g}_{self.seed}.json"

    @property
    def network(self) -> str:
        """Name of its weights."""
        return self.file.replace(".json", ".safetensors")


@dataclass(frozen=True)
class Budget:
    """How long a network is trained; alike for all arms.

    Attributes:
        steps, batch_size, learning_rate: Of the training.
        mixed_precision: Type that the loss is computed in by autocast; "no" is float32.
    """

    steps: int
    batch_size: int
    learning_rate: float
    mixed_precision: Literal["no", "bf16"] = "no"


def cells_of(tasks: Sequence[str], arms: Sequence[str], fractions: Sequence[float], seeds: int) -> list[Cell]:
    """All cells, seed by seed, so that an interrupted run has something to compare.

    An arm without real lesions does not depend on their share; it has the largest one alone.
    """
    return [
        Cell(task, arm, fraction, seed)
        for seed in range(seeds)
        for task in tasks
        for fraction in fractions
        for arm in arms
        if ARMS[arm].real or ARMS[arm].pasted or fraction == max(fractions)
    ]


def run_cell(
    cell: Cell,
    real: Sequence[Crop],
    synthetic: Sequence[Crop],
    tested: Sequence[Crop],
    budget: Budget,
) -> tuple[nn.Module, list[Outcome]]:
    """Train a network and ask it about each test crop that the task can use.

    Args:
        cell: Which one.
        real, synthetic: Training lesions.
        tested: Of other patients.
        budget: Of the training.
    Returns: The network, and what it says of these crops.
    Raises: ValueError: If a source that the arm needs has no lesion that the task can use.
    """
    task, arm = TASKS[cell.task], ARMS[cell.arm]
    chosen = [crop for crop in share_of_patients(real, cell.fraction, cell.seed) if task.usable(crop)]
    sources = {
        "real": chosen,
        "synthetic": [crop for crop in synthetic if task.usable(crop)],
        "pasted": pasted(chosen, cell.seed) if arm.pasted else [],
    }
    for name, crops in sources.items():
        if getattr(arm, name) and not crops:
            raise ValueError(f"{cell.task}, {cell.arm}, share {cell.fraction:g}: no {name} lesion that can be used")
    torch.manual_seed(cell.seed)
    network = task.network()
    optimizer = torch.optim.AdamW(network.parameters(), budget.learning_rate, weight_decay=1e-2)
    schedule = OneCycleLR(optimizer, budget.learning_rate, total_steps=budget.steps)
    network.train()
    for step in range(budget.steps):
        random = generator(cell.seed, "downstream", step)
        batch = draw_batch(arm, sources, budget.batch_size, EDGE, task.away, task.jitter, random)
        with torch.autocast("cpu", torch.bfloat16, enabled=budget.mixed_precision == "bf16"):
            loss = task.loss(network, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    with torch.no_grad():
        return network, [task.outcome(network, crop) for crop in tested if task.usable(crop)]


def keep(folder: Path, cell: Cell, network: nn.Module, outcomes: Sequence[Outcome]) -> None:
    """Store a cell's network and then its outcomes, which say that it is done; each complete or not at all."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    write_atomically(folder / cell.network, lambda temporary: save_file(weights, temporary))
    write_atomically(folder / cell.file, lambda temporary: temporary.write_text(json.dumps(list(outcomes))))


def kept(folder: Path, cells: Sequence[Cell]) -> Mapping[Cell, list[Outcome]]:
    """The outcomes of the cells that are done."""

    def read() -> Iterator[tuple[Cell, list[Outcome]]]:
        for cell in cells:
            if (folder / cell.file).is_file():
                yield cell, json.loads((folder / cell.file).read_text())

    return dict(read())
