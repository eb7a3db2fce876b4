"""Texture losses against their literal full-volume formulas: value, gradient, time and peak memory.

    uv run benchmarks/speed/texture_losses.py    # 64^3, a ball of 20 voxels, one thread, a few minutes
    uv run benchmarks/speed/texture_losses.py --device cuda

Forward and backward of one volume. "literal" is the formula as printed, over every voxel of the volume: eq. 6 as 2D
convolutions of both images with each kernel in every slice of three planes; eq. 7-9 as soft bins of the whole volume
and one shifted product for each direction. Two stronger rivals are shown as well: eq. 6 over the full volume by FFT,
and the literal eq. 7-9 with subnormal numbers flushed to zero, which slow down its products on a CPU.

Each rival runs in a process of its own. On a CPU the time is that of the process, not of the clock, so that other work
on the machine counts little; memory is the growth of the resident set at its peak. On a GPU the time is the clock's
and memory that of PyTorch's allocator.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusion.losses.cooccurrence import DIRECTIONS_13, cooccurrence_loss
from diffusion.losses.gabor import PLANES, GaborBank, gabor_loss
from foundation.config import launch, parse_config

BINS = 32


@dataclass(frozen=True)
class Config:
    """What to measure.

    Attributes:
        size: Edge of the volume, voxels.
        diameter: Of the lesion, a ball in the middle, voxels.
        device: cpu or cuda.
        threads: CPU threads.
        repeats: Runs of the fast forms; their median counts. The literal forms run once.
        only: Measure this form alone and print one line of JSON.
    """

    size: int = 64
    diameter: int = 20
    device: str = "cpu"
    threads: int = 1
    repeats: int = 3
    only: str = ""


def gabor_fast(pred: Tensor, target: Tensor, mask: Tensor, bank: GaborBank) -> Tensor:
    return gabor_loss(pred, target, mask, bank)


def gabor_literal(pred: Tensor, target: Tensor, mask: Tensor, bank: GaborBank) -> Tensor:
    """Eq. 6 over the full volume; real and imaginary kernels are two output channels."""
    total = pred.new_zeros(())
    for axes in PLANES.values():
        g, r, m = ((image * mask)[0, 0].permute(axes)[:, None] for image in (pred, target, mask))
        for kernel, w in zip(bank.kernels(), bank.weights(), strict=True):
            pair = torch.view_as_real(torch.from_numpy(kernel)).permute(2, 0, 1)[:, None].to(pred)
            f_g, f_r = (
                F.conv2d(s, pair.flip(2, 3), padding=(kernel.shape[0] // 2, kernel.shape[1] // 2)) for s in (g, r)
            )
            total = total + w * ((f_g - f_r).square() * m).sum() / m.sum()
    return total / len(bank) / len(PLANES)


def gabor_fft(pred: Tensor, target: Tensor, mask: Tensor, bank: GaborBank) -> Tensor:
    """The same sum with the convolutions done by FFT."""
    total = pred.new_zeros(())
    for axes in PLANES.values():
        g, r, m = ((image * mask)[0, 0].permute(axes) for image in (pred, target, mask))
        for kernel, w in zip(bank.kernels(), bank.weights(), strict=True):
            k = torch.from_numpy(kernel).to(pred.device, torch.complex64)
            full = [n + s - 1 for n, s in zip(g.shape[1:], k.shape, strict=True)]
            spectrum = torch.fft.fft2(k, s=full)
            top, left = k.shape[0] // 2, k.shape[1] // 2
            window = (..., slice(top, top + g.shape[1]), slice(left, left + g.shape[2]))
            f_g, f_r = (torch.fft.ifft2(torch.fft.fft2(s, s=full) * spectrum)[window] for s in (g, r))
            total = total + w * (torch.view_as_real(f_g - f_r).square().sum(-1) * m).sum() / m.sum()
    return total / len(bank) / len(PLANES)


def cooccurrence_fast(pred: Tensor, target: Tensor, mask: Tensor, bank: GaborBank) -> Tensor:
    return cooccurrence_loss(pred, target, mask, BINS)


def cooccurrence_literal(pred: Tensor, target: Tensor, mask: Tensor, bank: GaborBank) -> Tensor:
    """Eq. 7-9 over the full volume."""
    width = 2 / BINS
    centres = -1 + width * (torch.arange(BINS, device=pred.device) + 0.5)
    binned = [torch.softmax(-((x[0] - centres.view(-1, 1, 1, 1)) ** 2) / width**2, dim=0) for x in (pred, target)]
    total = pred.new_zeros(())
    for offset in DIRECTIONS_13:
        here = tuple(slice(max(-o, 0), n - max(o, 0)) for o, n in zip(offset, mask.shape[2:], strict=True))
        there = tuple(slice(max(o, 0), n - max(-o, 0)) for o, n in zip(offset, mask.shape[2:], strict=True))
        pair = (mask[(0, 0, *here)] * mask[(0, 0, *there)]).flatten()
        P = []
        for w in binned:
            C = (w[(slice(None), *here)].flatten(1) * pair) @ w[(slice(None), *there)].flatten(1).T
            P.append(C / C.sum())
        total = total + (P[0] - P[1]).abs().sum()
    return total / len(DIRECTIONS_13)


FORMS = {
    "gabor": gabor_fast,
    "gabor, literal": gabor_literal,
    "gabor, full volume by FFT": gabor_fft,
    "cooccurrence": cooccurrence_fast,
    "cooccurrence, literal": cooccurrence_literal,
    "cooccurrence, literal, subnormals flushed": cooccurrence_literal,
}


def main(config: Config) -> None:
    if config.only:
        print(json.dumps(measure(config)))
        return
    print(f"{config.size}^3, lesion of {config.diameter} voxels, {config.device}, {config.threads} thread(s)\n")
    print("| form | value | time, s | × | peak memory, MiB | × | value off by | gradient off by |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    fast: dict[str, float] = {}
    for form in FORMS:
        result = run_alone(config, form)
        if "," not in form:
            fast = result
        columns = [
            form,
            f"{result['value']:.6g}",
            f"{result['seconds']:.3g}",
            f"{result['seconds'] / fast['seconds']:.0f}",
        ]
        columns += [f"{result['mib']:.0f}", f"{result['mib'] / fast['mib']:.0f}"]
        columns += [f"{abs(result[key] / fast[key] - 1):.0e}" for key in ("value", "slope")]
        print("| " + " | ".join(columns) + " |", flush=True)


def run_alone(config: Config, form: str) -> dict[str, float]:
    """Measure one form in a fresh process."""
    options = [f"--{name}={getattr(config, name)}" for name in ("size", "diameter", "device", "threads", "repeats")]
    command = [sys.executable, __file__, *options, f"--only={form}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{form} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(config: Config) -> dict[str, float]:
    """Loss, its slope along a fixed random direction (one number that a wrong gradient changes), time and memory."""
    torch.set_num_threads(config.threads)
    if "flushed" in config.only and not torch.set_flush_denormal(True):
        raise RuntimeError("this CPU cannot flush subnormal numbers")
    form = FORMS[config.only]
    run(form, *example(12, 6, config.device))  # libraries load here, not in the measured run
    inputs = example(config.size, config.diameter, config.device)
    before = memory_bytes("VmRSS", config.device)
    results = [run(form, *inputs) for _ in range(1 if "," in config.only else config.repeats)]
    peak = memory_bytes("VmHWM", config.device) - before
    return {**results[0], "seconds": median(r["seconds"] for r in results), "mib": peak / 2**20}


def run(form: Any, pred: Tensor, target: Tensor, mask: Tensor, direction: Tensor, bank: GaborBank) -> dict[str, float]:
    """One forward and backward."""
    pred = pred.clone().requires_grad_()
    clock = time.perf_counter if pred.is_cuda else time.process_time
    synchronise(pred)
    start = clock()
    value = form(pred, target, mask, bank)
    value.backward()
    synchronise(pred)
    seconds = clock() - start
    assert pred.grad is not None
    return {"value": value.item(), "slope": (pred.grad * direction).sum().item(), "seconds": seconds}


def example(size: int, diameter: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor, GaborBank]:
    """Two random images in [-1, 1], the mask of a ball, a random direction and the bank."""
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(1, 1, size, size, size, generator=generator).mul(0.4).tanh() for _ in range(2))
    direction = torch.randn(1, 1, size, size, size, generator=generator)
    steps = torch.arange(size) - (size - 1) / 2
    ball = steps[:, None, None] ** 2 + steps[:, None] ** 2 + steps**2 <= (diameter / 2) ** 2
    tensors = [x.to(device) for x in (pred, target, ball[None, None].float(), direction)]
    return tensors[0], tensors[1], tensors[2], tensors[3], GaborBank().to(device).requires_grad_(False)


def memory_bytes(field: str, device: str) -> int:
    """This process's resident set now (VmRSS) or at its peak (VmHWM); on a GPU what is or was at most allocated."""
    if device != "cpu":
        return torch.cuda.memory_allocated() if field == "VmRSS" else torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def synchronise(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    launch(main, parse_config(Config))
