"""Samples per second of stage 2's training step: against MONAI's loop, by variant, by process, by launcher; GPU's use.

    uv run benchmarks/speed/training_step.py --latents data/latents --vae runs/vae/model > page.md
    uv run benchmarks/speed/training_step.py ... --only chain --rounds 15

A step is all of it: reading the rows, the draw from the posterior, the U-Net, gradient, optimiser, average. Every
contender is a process of its own (benchmarks/speed/training_chains.py says what each does) that pauses between its
turns, so one computes at a time and whatever else the machine does meets all of them alike; a ratio is the median of
the ratios round by round. Loader processes are off in all of them unless --workers says otherwise.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tqdm.auto import tqdm

from foundation.config import ExistingFolder, ModelSource, launch, parse_config

ROOT = Path(__file__).parents[2]
PYTHON = (sys.executable,)
TORCHRUN = (*PYTHON, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node")
ACCELERATE = (*PYTHON, "-m", "accelerate.commands.launch", "--num_processes", "1", "--num_machines", "1")
ACCELERATE = (*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no")
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "GLOO_SOCKET_IFNAME": "lo"}
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # bf16, dense, as NVIDIA's data sheets say
PARTS = ("data", "draw", "forward", "backward", "optimiser")


@dataclass(frozen=True)
class StepConfig:
    """What to measure.

    Attributes:
        latents: Encoded dataset, which holds the crops as well.
        vae: Autoencoder.
        only: One section alone.
        size: "small" is the U-Net of configs/ldm.yaml, "base" has the defaults of scripts/train_ldm.py.
        batch: Samples per step and process.
        steps: Of a turn.
        rounds: Turns of each contender.
        warmup: Steps before the first turn, compilation among them.
        workers: Loader processes of each contender.
        crops: Rows that MONAI's cache holds.
        threads: CPU threads of the chains and variants; 0 takes PyTorch's choice.
        gpu_size: The U-Net whose use of a GPU is measured.
        gpu_batch: Its batch.
        peak_tflops: Of the GPU in bf16; 0 takes it from its name.
    """

    latents: ExistingFolder
    vae: ModelSource
    only: Literal["all", "chain", "variants", "scaling", "launcher", "gpu"] = "all"
    size: Literal["small", "base"] = "small"
    batch: int = 8
    steps: int = 5
    rounds: int = 9
    warmup: int = 4
    workers: int = 0
    crops: int = 256
    threads: int = 0
    gpu_size: Literal["small", "base"] = "base"
    gpu_batch: int = 64
    peak_tflops: float = 0.0


@dataclass
class Contender:
    """One chain: what it is called, how it is started, and what it has said."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of `training_chains.ChainConfig`
    launcher: Sequence[str] = PYTHON
    environment: Mapping[str, str] = field(default_factory=dict)
    processes: int = 1
    facts: dict[str, Any] = field(default_factory=dict)  # device, threads and FLOPs of a step
    rates: list[float] = field(default_factory=list)  # samples per second of each turn
    parts: list[dict[str, float]] = field(default_factory=list)  # seconds per step of each turn
    failure: str = ""


class Started:
    """A contender's process, that takes a turn when it is requested."""

    def __init__(self, contender: Contender, config: StepConfig, folder: Path) -> None:
        self.contender, self.folder, self.turn = contender, folder, 0
        folder.mkdir()
        options = {"chain": "ours", "turns": folder, "asker": os.getpid()}
        options |= {"latents": config.latents, "vae": config.vae}
        options |= {name: getattr(config, name) for name in ("size", "batch", "steps", "warmup", "workers", "crops")}
        self.options = options | dict(contender.options)
        words = [word for name, value in self.options.items() for word in (f"--{name}", text(value))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE_")}
        environment.pop("OMP_NUM_THREADS", None)
        environment |= {"PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", **contender.environment}
        self.log = (folder / "log.txt").open("w+")
        self.process = subprocess.Popen(
            [*contender.launcher, str(ROOT / "benchmarks/speed/training_chains.py"), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that it can be ended with all that it started
        )

    def answer(self) -> dict[str, Any] | None:
        """What it says at the end of the turn; None if it has failed, with the reason in `contender.failure`."""
        said = self.folder / f"done_{self.turn}.json"
        while not said.exists():
            if self.process.poll() is not None:
                lines = [line.strip() for line in (self.folder / "log.txt").read_text().splitlines() if line.strip()]
                errors = [line for line in lines if "rror" in line]
                self.contender.failure = (errors or lines or ["no word"])[-1][:160]
                return None
            time.sleep(0.02)
        return json.loads(said.read_text())

    def take_turn(self) -> None:
        """Ask for one, and note its rate."""
        if self.contender.failure:
            return
        self.turn += 1
        (self.folder / f"go_{self.turn}").touch()
        answer = self.answer()
        if answer is not None:
            steps = self.options["steps"]
            self.contender.rates.append(steps * self.options["batch"] * self.contender.processes / answer["seconds"])
            self.contender.parts.append({name: seconds / steps for name, seconds in answer["parts"].items()})

    def end(self) -> None:
        """End it and what it started: without the folder nobody waits for a turn any more."""
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def text(value: Any) -> str:
    """As a YAML value on a command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextlib.contextmanager
def started(contenders: Sequence[Contender], config: StepConfig) -> Iterator[list[Started]]:
    """All of them warmed up, one after the other."""
    running: list[Started] = []
    root = Path(tempfile.mkdtemp(prefix="training_step_"))
    try:
        for number, contender in enumerate(tqdm(contenders, desc="starting", leave=False)):
            running.append(Started(contender, config, root / str(number)))
            contender.facts = running[-1].answer() or {}
        yield running
    finally:
        for chain in running:
            chain.end()
        shutil.rmtree(root, ignore_errors=True)


def measure(contenders: Sequence[Contender], config: StepConfig, what: str) -> None:
    """`rounds` turns of each."""
    with started(contenders, config) as chains:
        for _ in tqdm(range(config.rounds), desc=what, leave=False):
            for chain in chains:
                chain.take_turn()


def table(contenders: Sequence[Contender], base: Contender, heading: str, of: str) -> None:
    """Samples per second of each, and its ratio to the base, round by round: of it, or of the base over it."""
    print(f"| {heading} | threads | samples/s, median (min ... max) | {of} (min ... max) |\n|---|---|---|---|")
    for contender in contenders:
        if not contender.rates:
            print(f"| {contender.name} | | did not run: {contender.failure.replace('|', '/')} | |")
            continue
        ratios = [rate / own for rate, own in zip(contender.rates, base.rates, strict=False)]
        if of.startswith("ours over"):
            ratios = [1 / ratio for ratio in ratios]
        rates = contender.rates
        threads = f"{contender.processes} × {contender.facts['threads']}"
        print(
            f"| {contender.name} | {threads} | {median(rates):.2f} ({min(rates):.2f} ... {max(rates):.2f}) | "
            f"{median(ratios):.2f} ({min(ratios):.2f} ... {max(ratios):.2f}) |"
        )
    print()


def chain_section(config: StepConfig) -> None:
    """Ours against MONAI's dataset in a plain loop, and what the parts of a step take."""
    environment = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    names = {
        "ours": "ours: encoded dataset",
        "monai": "plain loop, MONAI's dataset of images, encoded in the step",
        "monai_latents": "plain loop, MONAI's dataset of stored posteriors",
    }
    contenders = [Contender(name, {"chain": chain}, environment=environment) for chain, name in names.items()]
    measure(contenders, config, "chains")
    print("## One training step chain\n")
    table(contenders, contenders[0], "chain", "ours over it")
    own = contenders[0]
    if own.rates:
        gflop = own.facts["flops"] / 1e9
        print(f"A step of ours is {gflop:.1f} GFLOP, done at {gflop * median(own.rates) / config.batch:.0f} GFLOP/s.\n")
    if all(contender.facts.get("device") == "cpu" for contender in contenders):
        print(f"| ms of a step, median | {' | '.join(PARTS)} |\n|---|{'---|' * len(PARTS)}")
        for contender in (each for each in contenders if each.parts):
            times = [1e3 * median(turn.get(part, 0.0) for turn in contender.parts) for part in PARTS]
            print(f"| {contender.name} | {' | '.join(f'{ms:.1f}' for ms in times)} |")
        print(
            "\nThe draw includes encoding, where a step does it; the optimiser, where they are, clipping and average.\n"
        )


def variants_section(config: StepConfig) -> None:
    """Ours with and without torch.compile, channels-last and bf16."""
    environment = {"OMP_NUM_THREADS": str(config.threads)} if config.threads else {}
    variants: dict[str, dict[str, Any]] = {
        "ours: channels-last, float32": {},
        "contiguous, float32": {"channels_last": False},
        "channels-last, bf16": {"precision": "bf16"},
        "contiguous, bf16": {"channels_last": False, "precision": "bf16"},
        "channels-last, float32, torch.compile": {"compile": True},
        "channels-last, bf16, torch.compile": {"compile": True, "precision": "bf16"},
    }
    contenders = [Contender(name, options, environment=environment) for name, options in variants.items()]
    measure(contenders, config, "variants")
    print("## Variants of ours\n")
    table(contenders, contenders[0], "variant", "over ours")


def scaling_section(config: StepConfig) -> None:
    """One and two CPU processes, each with a batch of its own."""
    contenders = [
        Contender("one process, one thread", environment=NO_GPU | {"OMP_NUM_THREADS": "1"}),
        Contender("one process, all cores", environment=NO_GPU),
        Contender("two processes (torchrun) that share the cores", {}, (*TORCHRUN, "2"), NO_GPU, processes=2),
    ]
    measure(contenders, config, "processes")
    print(f"## From one to two CPU processes, {config.batch} samples per process and step\n")
    table(contenders, contenders[0], "processes", "over the first")


def launcher_section(config: StepConfig) -> None:
    """The training script under `accelerate launch`, with our sharing of cores and with what the launcher leaves."""
    contenders = [
        Contender("python", environment=NO_GPU),
        Contender("accelerate launch --num_processes 1", {}, ACCELERATE, NO_GPU),
        Contender("the same with the one thread that it sets", {}, ACCELERATE, NO_GPU | {"OMP_NUM_THREADS": "1"}),
    ]
    measure(contenders, config, "launchers")
    print("## Launchers on a CPU\n")
    table(contenders, contenders[0], "launcher", "over python")


def gpu_section(config: StepConfig) -> None:
    """Model FLOPs utilisation: FLOPs of forward and backward, counted once, per second, over the card's peak."""
    print("## Use of the GPU, bf16\n")
    if shutil.which("nvidia-smi") is None:
        print("Needs a CUDA GPU; this machine has none.\n")
        return
    options = {"size": config.gpu_size, "batch": config.gpu_batch, "precision": "bf16"}
    contenders = [Contender("ours", options), Contender("ours, torch.compile", options | {"compile": True})]
    measure(contenders, config, "GPU")
    device, flops = contenders[0].facts.get("device", "cpu"), contenders[0].facts.get("flops", 0)
    peak = config.peak_tflops or next((value for name, value in PEAK_TFLOPS.items() if name in device), 0.0)
    if device == "cpu" or not peak:
        print(f"PyTorch computes on {device!r}, whose peak is not known: give --peak-tflops.\n")
        return
    print(f"{device}, peak {peak:g} TFLOP/s, {config.gpu_size} U-Net, batch {config.gpu_batch}\n")
    print("| variant | samples/s | TFLOP/s | share of the peak |\n|---|---|---|---|")
    for contender in contenders:
        if not contender.rates:
            print(f"| {contender.name} | did not run: {contender.failure.replace('|', '/')} | | |")
            continue
        rate = median(contender.rates)
        tflops = flops / config.gpu_batch * rate / 1e12
        print(f"| {contender.name} | {rate:.0f} | {tflops:.1f} | {tflops / peak:.1%} |")
    print()


SECTIONS = {
    "chain": chain_section,
    "variants": variants_section,
    "scaling": scaling_section,
    "launcher": launcher_section,
    "gpu": gpu_section,
}


def main(config: StepConfig) -> None:
    """Print the page."""
    print(f"# Training step of stage 2\n\n{processor()}, {len(os.sched_getaffinity(0))} logical cores; ", end="")
    print(f"{config.size} U-Net, batch {config.batch}; {config.rounds} rounds of {config.steps} steps in turn.\n")
    for name, section in SECTIONS.items():
        if config.only in ("all", name):
            section(config)


def processor() -> str:
    """Its name, where Linux says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    launch(main, parse_config(StepConfig))
