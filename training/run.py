"""What every training script shares: the run folder, Accelerate, EMA, checkpoints, the time limit, logs and curves."""

import contextlib
import json
import logging
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from foundation.atomic import recover, write_atomically
from foundation.claimed_folder import changed_settings
from foundation.config import MixedPrecision, config_dict
from foundation.draws import generator
from foundation.threads import use_threads
from training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from training.config import TrainingConfig
from training.curves import plot_curves
from training.draws import DrawSampler
from training.model_card import write_model_card
from training.processes import in_every_process, of_first_process, open_accelerator, part
from training.sharing import check_push, push_result

logger = logging.getLogger(__name__)

MOST_SKIPPED = 20  # steps in a row that are left out because they are not finite
FREE_ON_RESUME = (
    *("out", "max_minutes", "stop_at", "workers", "threads", "log_every", "checkpoint_every", "evaluate_every"),
    *("push_to_hub", "hub_private"),
)


class TrainingRun:
    """One run in its folder; used from top to bottom of a training script.

    Example:
        run = TrainingRun(config)
        run.prepare(model)                       # optimiser, schedule, EMA, resume
        for batch in run.batches(dataset):
            run.update(loss_of(run.model(batch)), {"l1": ...})
            if run.evaluation_due(): ...
        if run.finished:
            run.save("model", lambda averaged: averaged)

    Raises: ValueError: If the folder holds a run with another config, naming the fields that differ, or the result is
        to be pushed and cannot be (`training.sharing`).
    """

    def __init__(self, config: TrainingConfig) -> None:
        if config.mixed_precision not in get_args(MixedPrecision):
            raise ValueError(f'mixed_precision "{config.mixed_precision}"; choose "no", "bf16" or "fp16"')
        if config.budget_minutes is not None and not config.budget_minutes > 0:
            raise ValueError(f"budget_minutes {config.budget_minutes}: expected a time above 0, or none")
        if config.stop_at is not None and config.stop_at < 1:
            raise ValueError(f"stop_at {config.stop_at}: expected a step from 1, or none")
        if config.gradient_accumulation_steps < 1:
            raise ValueError(
                f"gradient_accumulation_steps {config.gradient_accumulation_steps}: expected a number of batches from 1"
            )
        self.config = config
        use_threads(config.threads)
        self.accelerator = open_accelerator(
            mixed_precision=config.mixed_precision, log_with="tensorboard", project_dir=str(config.out)
        )
        self.device = self.accelerator.device
        self.step = 0
        self._batch = 0  # batches of this process that are done, all steps together
        self._losses: list[Tensor] = []  # of the step in hand
        self.seconds = 0.0  # that the steps took, data loading included
        self._begun = self._clock()  # of the step in hand
        self._budget_spent = False
        self.skipped, self._skipped_in_a_row = 0, 0
        self._bar: tqdm | None = None
        self._stop = False
        if self.accelerator.is_main_process:
            check_push(config)
            _claim_folder(config)
        self.accelerator.wait_for_everyone()
        self.accelerator.init_trackers("tensorboard")

    def prepare(
        self,
        model: nn.Module,
        learning_rates: Mapping[str, float] | None = None,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        """Build optimiser, schedule and EMA for `model`, hand them to Accelerate and continue from the checkpoint.

        Args:
            model: What is trained; its `forward` gives the loss.
            learning_rates: Peak rate of the children of `model` that have one of their own, by name. Such a child's
                gradients are clipped by themselves: a discriminator does not take part in the autoencoder's norm.
            betas: Of AdamW.
        """
        config = self.config
        model = model.to(memory_format=torch.channels_last_3d)  # 3D convolutions: faster on CPU and in bf16 on GPU
        optimizer = torch.optim.AdamW(
            parameter_groups(model, learning_rates or {}),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            betas=betas,
            fused=True,  # a fifth of the time on a CPU
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.ema = EMAModel(
            self._averaged_tensors(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True
        )
        self.schedule = get_scheduler(
            "cosine", optimizer, num_warmup_steps=config.warmup_steps, num_training_steps=config.steps
        )
        checkpoint = None
        if self.accelerator.is_main_process:
            for name in ("model", "pipeline"):
                recover(config.out / name)
            checkpoint = newest_checkpoint(config.out / "checkpoint")
        self.step, self.seconds = load_checkpoint(of_first_process(checkpoint, self.accelerator), self._parts())
        self._budget_spent = self._is_budget_spent()
        self.ema.to(self.device)  # a checkpoint is read to the CPU
        if self.step:
            logger.info("%s: continuing at step %d of %d", config.out, self.step, config.steps)

    def batches(self, dataset: Dataset, weights: list[float] | None = None) -> Iterator[Any]:
        """This process's batches from the current step to the last, with progress bar, checkpoints and time limit.

        A step has `gradient_accumulation_steps` of them. Draws depend on the seed and their number alone: with twice
        as many batches a step sees the samples that it would see with twice the batch, or twice the processes.

        Args:
            dataset: Indexed by (row, draw number); see `training.draws`.
            weights: Sampling weight per row; None for permutations.
        Raises:
            ValueError: If the dataset is empty or `weights` has another length.
            RuntimeError: If the loop does not call `update` once per batch.
        """
        config, accelerator = self.config, self.accelerator
        per_step = config.gradient_accumulation_steps
        self._batch = self.step * per_step
        sampler = DrawSampler(
            len(dataset),  # type: ignore[arg-type]
            config.batch_size,
            (self._batch, self._batch if self.finished else config.steps * per_step),
            config.seed,
            accelerator.process_index,
            accelerator.num_processes,
            weights,
        )
        loader = DataLoader(
            dataset,
            batch_sampler=sampler,
            num_workers=config.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=config.workers > 0,
        )
        self._started, self._begun = time.monotonic(), self._clock()
        previous = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        bar = tqdm(
            total=config.steps, initial=self.step, desc=config.out.name, disable=not accelerator.is_local_main_process
        )
        self._bar = bar
        try:
            for batch in loader:
                self.model.train()
                done = self._batch
                number = done * accelerator.num_processes + accelerator.process_index
                torch.manual_seed(int(generator(config.seed, "dropout", number).integers(2**63)))
                with contextlib.nullcontext() if self._completes_step() else accelerator.no_sync(self.model):
                    yield _to_device(batch, self.device)
                if self._batch != done + 1:
                    raise RuntimeError("a training loop calls run.update exactly once per batch")
                if self._in_step():
                    continue
                bar.update()
                stop = self._out_of_time()
                if stop or self.finished or self.step % config.checkpoint_every == 0:
                    self._checkpoint()
                if self.finished:
                    if self._budget_spent:
                        bar.write(f"{config.budget_minutes:g} minutes are spent after step {self.step}")
                    break
                if stop:
                    bar.write(f"stopped after step {self.step} of {config.steps}; the same command continues")
                    break
                self._begun = self._clock()  # what is done between two steps is no training
        finally:
            bar.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
            for tracker in accelerator.trackers:  # not end_training: the processes still meet to save the model
                tracker.finish()

    def update(self, loss: Tensor, logs: Mapping[str, Tensor | float] | None = None) -> None:
        """Backward; after the last batch of a step also clip, optimise, average.

        Args:
            loss: Scalar, of this process's batch.
            logs: Written every `log_every` steps, with loss, gradient norm and learning rate. The loss is the mean
                over the step's batches; the others are those of its last batch.
        A step whose gradient is not finite changes nothing but the count of steps, and is counted; loss scaling in
        fp16 has such steps by design.

        Raises: ValueError: After `MOST_SKIPPED` of them in a row; weights and checkpoints are as before the first.
        """
        self.accelerator.backward(loss / self.config.gradient_accumulation_steps)
        self._losses.append(loss.detach())
        self._batch += 1
        if self._in_step():
            return
        loss, self._losses = torch.stack(self._losses).mean(), []
        self.accelerator.unscale_gradients(self.optimizer)
        groups = [group["params"] for group in self.optimizer.param_groups]
        norm, *others = [nn.utils.clip_grad_norm_(group, self.config.max_grad_norm) for group in groups]
        finite = bool(torch.isfinite(torch.stack([loss.float(), norm, *others])).all())
        finite = in_every_process(finite, self.accelerator)
        if finite or self.accelerator.scaler is not None:  # the scaler leaves out such steps itself
            self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        if finite:
            self.ema.step(self._averaged_tensors())
        self.step += 1
        self.seconds += self._clock() - self._begun
        self._budget_spent = self._is_budget_spent()
        self._count_skipped(finite, loss)
        if self.step % self.config.log_every == 0:  # as `log_due` said before
            rate = self.schedule.get_last_lr()[0]
            self.log({"loss": loss, **(logs or {}), "gradient_norm": norm, "learning_rate": rate})

    def _count_skipped(self, finite: bool, loss: Tensor) -> None:
        if finite:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self.skipped += 1
        self.log({"skipped_steps": self.skipped})
        if self._skipped_in_a_row >= MOST_SKIPPED:
            raise ValueError(
                f"{self.config.out}: loss or gradient not finite for {MOST_SKIPPED} steps in a row, up to step "
                f"{self.step} (loss {loss.item():g}); the last checkpoint is intact: lower the learning rate, use "
                "another mixed_precision, or check the data, in another --out"
            )

    def _completes_step(self) -> bool:
        """Whether the batch in hand is the last of its step."""
        return (self._batch + 1) % self.config.gradient_accumulation_steps == 0

    def _in_step(self) -> bool:
        """Whether batches of a step are done, but not all of them."""
        return self._batch % self.config.gradient_accumulation_steps != 0

    def log_due(self) -> bool:
        """Whether the batch in hand will be logged, so that what is costly to measure is measured then only."""
        return self._completes_step() and (self.step + 1) % self.config.log_every == 0

    def log(self, values: Mapping[str, Tensor | float]) -> None:
        """Write scalars to the tracker, `metrics.jsonl` and the progress bar (main process; its own values)."""
        scalars = {name: float(v.detach()) if torch.is_tensor(v) else float(v) for name, v in values.items()}
        self.accelerator.log(scalars, step=self.step)
        if self.accelerator.is_main_process:
            with (self.config.out / "metrics.jsonl").open("a") as lines:
                lines.write(json.dumps({"step": self.step, **scalars}) + "\n")
            if self._bar is not None:
                self._bar.set_postfix(
                    {name: f"{value:.4g}" for name, value in list(scalars.items())[:3]}, refresh=False
                )

    def evaluation_due(self) -> bool:
        """True on the main process every `evaluate_every` steps and after the last one."""
        due = self.step % self.config.evaluate_every == 0 or self.finished
        return due and not self._in_step() and self.accelerator.is_main_process

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or those up to `stop_at`, or the budget is spent."""
        last = min(self.config.steps, self.config.stop_at or self.config.steps)
        return self.step >= last or self._budget_spent

    @contextlib.contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The unwrapped model, in eval mode and with the averaged weights and buffers as long as the context lasts."""
        model = self.accelerator.unwrap_model(self.model)
        tensors = self._averaged_tensors()
        self.ema.store(tensors)
        self.ema.copy_to(tensors)
        model.eval()
        try:
            yield model
        finally:
            self.ema.restore(tensors)
            model.train()

    def save(self, name: str, make: Callable[[nn.Module], Any]) -> None:
        """Write the folder `<out>/<name>` with its card, complete or not at all: what a finished run leaves, or pushes.

        The processes part before, so nobody waits for the first one's work: all that comes later is its own.

        Args:
            name: Of the folder.
            make: From the averaged model to what is saved, an object with `save_pretrained`; main process only.
        """
        part(self.accelerator)
        if self.accelerator.is_main_process:
            config, folder = self.config, self.config.out / name

            def write(temporary: Path) -> None:
                made.save_pretrained(temporary)
                write_model_card(temporary, config.out, config.push_to_hub)

            with self.averaged() as model:
                made = make(model)
                write_atomically(folder, write)
            print(f"saved: {folder}")
            push_result(config, folder)

    def _averaged_tensors(self) -> list[nn.Parameter]:
        """What the average is taken of: parameters, and the buffers that follow them, such as a codebook's sums."""
        model = self.accelerator.unwrap_model(self.model)
        buffers = [nn.Parameter(buffer) for buffer in model.buffers() if buffer.is_floating_point()]  # share memory
        return [*model.parameters(), *buffers]

    def _parts(self) -> dict[str, Any]:
        parts = {
            "model": self.accelerator.unwrap_model(self.model),
            "ema": self.ema,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
        }
        return parts | ({"scaler": self.accelerator.scaler} if self.accelerator.scaler is not None else {})

    def _checkpoint(self) -> None:
        if self.accelerator.is_main_process:
            save_checkpoint(self.config.out / "checkpoint", self.step, self._parts(), self.seconds)
            plot_curves(self.config.out / "metrics.jsonl", self.config.out / "curves.png")
        self.accelerator.wait_for_everyone()

    def _ask_to_stop(self, number: int, frame: object) -> None:
        self._stop = True  # the step in hand is finished and checkpointed first

    def _clock(self) -> float:
        """Seconds that count as time of training."""
        return time.process_time() if self.config.cpu_clock else time.monotonic()

    def _is_budget_spent(self) -> bool:
        budget = self.config.budget_minutes
        return budget is not None and not in_every_process(self.seconds < 60 * budget, self.accelerator)

    def _out_of_time(self) -> bool:
        limit = self.config.max_minutes
        stop = self._stop or (limit is not None and time.monotonic() - self._started > 60 * limit)
        return not in_every_process(not stop, self.accelerator)  # all stop at the same step


def parameter_groups(model: nn.Module, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
    """The optimiser's groups: all parameters, without those of the named children, then each of these with its rate."""
    children = {name: list(getattr(model, name).parameters()) for name in learning_rates}
    apart = {id(parameter) for parameters in children.values() for parameter in parameters}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    return [{"params": rest}, *({"params": children[name], "lr": rate} for name, rate in learning_rates.items())]


def _claim_folder(config: TrainingConfig) -> None:
    """Write config.yaml and the git commit into a new run folder; refuse a folder of a run with another config."""
    path = config.out / "config.yaml"
    resolved = config_dict(config)
    if path.exists():
        defaults = {f.name: f.default for f in fields(config) if f.default is not MISSING}
        made = {f.name: f.default_factory() for f in fields(config) if callable(f.default_factory)}
        defaults |= {name: config_dict(value) if is_dataclass(value) else value for name, value in made.items()}
        earlier = defaults | yaml.safe_load(path.read_text())  # a field may be younger than the run
        fixed = {key: value for key, value in resolved.items() if key not in FREE_ON_RESUME}
        changes = changed_settings({key: earlier.get(key) for key in fixed}, fixed)
        if changes:
            raise ValueError(f"{config.out} holds a run with another config ({changes}); choose another --out")
    config.out.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    text = f"# git commit: {commit or 'unknown'}\n" + yaml.safe_dump(resolved, sort_keys=False)
    write_atomically(path, lambda temporary: temporary.write_text(text))


def _to_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device, non_blocking=True) if torch.is_tensor(value) else value for key, value in batch.items()
    }
