"""The lesions of several scans are painted together, so that the calls of the pipeline are full, and judged."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from evaluation.lesions.synthesis import Made, Painted, Sample, ScanSteps, Synthesis, rejected


class _Running(NamedTuple):
    """A scan in work, the samples of its attempt, and what was made of those that were painted already, by index."""

    steps: ScanSteps
    samples: list[Sample]
    painted: dict[int, Painted | None]


def run_scans(
    synthesis: Synthesis, scans: Iterable[tuple[int, ScanSteps]], batch_size: int
) -> Iterator[tuple[int, Made]]:
    """Put lesions into scans side by side; each scan comes out as soon as it is done.

    Another scan is begun where those in work have too few samples for a call. So at most `batch_size` scans are in
    memory, and hardly any call is filled up with repeated lesions but the last ones.

    Args:
        synthesis: What lesions are made with.
        scans: Number and `evaluation.lesions.synthesis.scan_with_lesions` of each; taken when needed.
        batch_size: Lesions in a call.
    Returns: Number and result of each.
    """
    coming, running, waiting = iter(scans), dict[int, _Running](), list[tuple[int, int]]()

    def go_on(number: int, samples: list[Sample], steps: ScanSteps) -> None:
        running[number] = _Running(steps, samples, {})
        waiting.extend((number, index) for index in range(len(samples)))

    while True:
        while max(len(waiting), len(running)) < batch_size and (begun := next(coming, None)) is not None:
            number, steps = begun
            go_on(number, next(steps), steps)  # without samples where none finds a place
        if not running:
            return
        if waiting:
            some = _alike(running, waiting)[:batch_size]
            waiting = [one for one in waiting if one not in some]
            made = _painted(synthesis, [running[number].samples[index] for number, index in some], batch_size)
            for (number, index), one in zip(some, made, strict=True):
                running[number].painted[index] = one
        for number in [number for number, scan in running.items() if len(scan.painted) == len(scan.samples)]:
            steps, samples, painted = running.pop(number)
            try:
                go_on(number, steps.send([painted[index] for index in range(len(samples))]), steps)
            except StopIteration as end:
                yield number, end.value


def _alike(running: dict[int, _Running], waiting: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those waiting samples that have the same attributes requested as the first one."""
    requested = [running[number].samples[index].requested.keys() for number, index in waiting]
    return [one for one, names in zip(waiting, requested, strict=True) if names == requested[0]]


def _painted(synthesis: Synthesis, samples: Sequence[Sample], batch_size: int) -> list[Painted | None]:
    """What one call of the pipeline made; None where it was rejected. Where it refuses one, each is painted by itself.

    Every call has `batch_size` lesions, the last one repeated where there are fewer: rounding depends on the size of a
    batch, not on which lesions are in it. The rows then hold what was measured, and why a sample was rejected.
    """
    filled = [*samples, *[samples[-1]] * (batch_size - len(samples))]
    requested = {name: [sample.requested[name] for sample in filled] for name in samples[0].requested}
    options = {**synthesis.options, "attributes": requested or None}
    noise = [torch.Generator().manual_seed(sample.row["noise_seed"]) for sample in filled]
    scans, masks = [sample.place.ct for sample in filled], [sample.place.mask for sample in filled]
    try:
        made: Any = synthesis.pipeline(scans, masks, generator=noise, **options)
    except ValueError as error:
        if len(samples) > 1:
            return [_painted(synthesis, [sample], batch_size)[0] for sample in samples]
        rejected(samples[0].row, "not painted", str(error))
        return [None]
    found = zip(samples, made.ct, made.paint_mask, strict=False)  # without the repeated ones
    return [_judged(synthesis, sample, Painted(ct, painted)) for sample, ct, painted in found]


def _judged(synthesis: Synthesis, sample: Sample, made: Painted) -> Painted | None:
    """The lesion where it is accepted, else None; the row says what was measured and why."""
    measured = synthesis.acceptance.measure(made.ct, sample.place.mask)
    sample.row.update(measured)
    fault = synthesis.acceptance.fault(measured, sample.requested)
    if fault is not None:
        rejected(sample.row, *fault)
        return None
    return made
