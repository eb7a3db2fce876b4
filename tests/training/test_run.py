"""A run is a function of its config: however it is stopped and continued, the weights are the same."""

import itertools
import json
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from accelerate.utils import set_seed
from forked import PATIENCE_S, context
from torch import nn
from torch.utils.data import Dataset

from training.checkpoint import read_progress
from training.config import TrainingConfig
from training.curves import plot_curves, read_metrics
from training.draws import generator
from training.run import TrainingRun


@dataclass(frozen=True)
class Model:
    """Of the network."""

    width: int = 8


@dataclass(frozen=True)
class Config(TrainingConfig):
    """A small run."""

    model: Model = field(default_factory=Model)


class Points(Dataset):
    """Eleven points in four dimensions."""

    def __len__(self):
        return 11

    def __getitem__(self, item):
        row, draw = item
        return {"x": torch.from_numpy(generator(0, "noise", row).standard_normal(4, dtype="float32")), "draw": draw}


def short(folder):
    return Config(
        data=folder / "data",
        out=folder / "run",
        steps=6,
        batch_size=3,
        learning_rate=0.01,
        warmup_steps=2,
        ema_decay=0.9,
        log_every=2,
        checkpoint_every=2,
        evaluate_every=4,
    )


@pytest.fixture
def config(tmp_path):
    return short(tmp_path)


def train(config, at_step=lambda run: None, points=None):
    """Continue the run in the config's folder; `at_step` is called after every update."""
    set_seed(config.seed)
    network = nn.Sequential(nn.Linear(4, config.model.width), nn.Dropout(0.5), nn.Linear(config.model.width, 1))
    run = TrainingRun(config)
    run.prepare(network)
    for batch in run.batches(points or Points()):
        loss = (run.model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        run.update(loss, {"squared": loss})
        at_step(run)
    return run


def weights(run):
    """The averaged weights, which are what is saved, and the trained ones."""
    with run.averaged() as model:
        averaged = [parameter.detach().clone() for parameter in model.parameters()]
    return averaged + [parameter.detach().clone() for parameter in run.model.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return weights(train(short(tmp_path_factory.mktemp("uninterrupted"))))


def test_a_run_stopped_by_its_time_limit_again_and_again_ends_with_the_same_weights(config, uninterrupted, capsys):
    steps = []
    while not steps or steps[-1] < config.steps:
        run = train(replace(config, max_minutes=0))
        steps.append(run.step)
    assert steps == list(range(1, 7)) and run.finished
    assert same(weights(run), uninterrupted)
    assert "stopped after step 5 of 6; the same command continues" in capsys.readouterr().out


def test_a_run_has_its_budget_once_however_often_it_is_continued(config, monkeypatch, capsys):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("training.run.time", SimpleNamespace(monotonic=lambda: clock.now))
    due = []

    class Minute(Points):
        def __getitem__(self, item):
            clock.now += 20.0  # three points a step
            return super().__getitem__(item)

    def evaluate_for_an_hour(run):
        due.append(run.evaluation_due())
        clock.now += 3600.0

    budget, seconds = replace(config, steps=60, budget_minutes=3.5, evaluate_every=100), []
    for limit in (0.5, 61.5, None):  # minutes, evaluation included: a step, then two
        run = train(replace(budget, max_minutes=limit), evaluate_for_an_hour, Minute())
        seconds.append(run.seconds)
    assert seconds == [60.0, 180.0, 240.0] and run.step == 4 and run.finished
    assert read_progress(config.out / "checkpoint") == (4, 240.0)
    assert due == [False, False, False, True]
    assert "3.5 minutes are spent after step 4" in capsys.readouterr().out
    assert not train(budget, due.append, Minute()).seconds > 240 and len(due) == 4  # nothing more, finished as it is


def test_a_budget_of_cpu_time_counts_that_alone(config, monkeypatch):
    wall, cpu = itertools.count(0, 3600), itertools.count(0, 60)  # a call is an hour later, of a minute's work
    clocks = SimpleNamespace(monotonic=lambda: next(wall), process_time=lambda: next(cpu))
    monkeypatch.setattr("training.run.time", clocks)
    run = train(replace(config, steps=60, budget_minutes=2.5, cpu_clock=True), lambda run: None)
    assert run.step == 3 and run.seconds == 180 and run.finished


def test_a_run_finishes_early_with_the_weights_that_the_whole_one_has_there_and_can_go_on(config, uninterrupted):
    at_four = []
    train(replace(config, out=config.out.with_name("whole")), lambda run: at_four.append(weights(run)))
    early = train(replace(config, stop_at=4))
    assert early.step == 4 and early.finished and same(weights(early), at_four[3])
    killed = train(replace(config, stop_at=3))
    assert killed.step == 4 and killed.finished  # the checkpoint is later than that: nothing is trained
    assert same(weights(train(config)), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_the_step_in_hand_and_loses_nothing(config, uninterrupted, number):
    handler = signal.getsignal(number)

    def stop(run):
        if run.step == 3:
            os.kill(os.getpid(), number)

    assert train(config, stop).step == 3
    assert signal.getsignal(number) is handler
    assert same(weights(train(config)), uninterrupted)


def test_a_run_that_breaks_off_goes_on_from_its_last_checkpoint(config, uninterrupted):
    class PowerCut(BaseException):
        pass

    def cut(run):
        if run.step == 5:
            raise PowerCut

    with pytest.raises(PowerCut):
        train(config, cut)
    resumed_at = []
    run = train(config, lambda run: resumed_at.append(run.step))
    assert resumed_at[0] == 5 and same(weights(run), uninterrupted)


def test_loader_processes_change_nothing(config, uninterrupted):
    assert same(weights(train(replace(config, workers=2))), uninterrupted)


def test_another_seed_gives_other_weights(config, uninterrupted):
    assert not same(weights(train(replace(config, seed=1))), uninterrupted)


def test_a_finished_run_is_not_trained_further(config):
    first, calls = weights(train(config)), []
    assert same(weights(train(config, calls.append)), first) and not calls


def test_a_folder_of_another_config_is_refused_and_the_fields_that_differ_are_named(config):
    train(replace(config, max_minutes=0))
    with pytest.raises(ValueError, match="holds a run with another config") as error:
        train(replace(config, learning_rate=0.02, model=Model(16)))
    message = str(error.value)
    assert "learning_rate: 0.01 -> 0.02" in message and "model: {'width': 8} -> {'width': 16}" in message
    assert "choose another --out" in message and "steps" not in message
    train(replace(config, log_every=1, checkpoint_every=3, max_minutes=0))  # these may change


def test_a_run_that_is_older_than_a_field_is_continued_with_its_default(config):
    train(replace(config, max_minutes=0))
    path = config.out / "config.yaml"
    text = path.read_text().replace("gradient_accumulation_steps: 1\n", "")
    path.write_text(text)
    assert "gradient_accumulation_steps" not in text and train(config).finished
    path.write_text(text)
    with pytest.raises(ValueError, match=r"another config \(gradient_accumulation_steps: 1 -> 2\)"):
        train(replace(config, gradient_accumulation_steps=2))


@dataclass(frozen=True)
class Part:
    weight: float = 1.0


@dataclass(frozen=True)
class Younger(Config):
    part: Part = field(default_factory=Part)
    names: dict[str, float] = field(default_factory=dict)


def test_a_run_that_is_older_than_a_group_of_fields_is_continued_with_their_defaults(config):
    train(replace(config, max_minutes=0))
    assert TrainingRun(Younger(**vars(config))).config.part.weight == 1
    with pytest.raises(ValueError, match=r"another config \(part: \{'weight': 1.0\} -> \{'weight': 2.0\}\)"):
        TrainingRun(Younger(**vars(config), part=Part(2.0)))


def without_dropout(config, at_batch=lambda run: None):
    """The weights after training with a loss that is a mean over samples."""
    set_seed(config.seed)
    run = TrainingRun(config)
    run.prepare(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    for batch in run.batches(Points()):
        loss = (run.model(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()
        run.update(loss, {"logged": float(run.log_due())})
        at_batch(run)
    return weights(run)


def test_accumulated_gradients_train_as_one_larger_batch(config, tmp_path):
    config = replace(config, warmup_steps=0, max_grad_norm=0.5, log_every=1)  # clipped as the sum, not each part
    whole = without_dropout(replace(config, batch_size=6, out=tmp_path / "whole"))
    due = []
    parts = replace(config, batch_size=2, gradient_accumulation_steps=3, out=tmp_path / "parts")
    accumulated = without_dropout(parts, lambda run: due.append(run.evaluation_due()))
    for mine, expected in zip(accumulated, whole, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    assert not same(without_dropout(replace(config, batch_size=2, out=tmp_path / "part")), whole)
    metrics = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts")]
    np.testing.assert_allclose(metrics[1]["loss"], metrics[0]["loss"], rtol=1e-4)
    np.testing.assert_allclose(metrics[1]["gradient_norm"], metrics[0]["gradient_norm"], rtol=1e-4)
    assert [batch for batch, is_due in enumerate(due, 1) if is_due] == [12, 18]  # once at step 4, and at the end
    assert (metrics[1]["logged"][:, 1] == 1).all()


def test_a_run_that_accumulates_gradients_is_continued_between_steps(config, tmp_path):
    config = replace(config, batch_size=2, gradient_accumulation_steps=3)
    whole = weights(train(replace(config, out=tmp_path / "whole")))
    batches: list[int] = []
    while not batches or batches[-1] < config.steps:
        run = train(replace(config, max_minutes=0), lambda run: batches.append(run.step))
    assert batches == [step + (part == 2) for step in range(6) for part in range(3)] and same(weights(run), whole)


def test_a_step_with_one_batch_that_is_not_finite_changes_nothing_but_the_count(config):
    set_seed(0)
    run = TrainingRun(replace(config, gradient_accumulation_steps=2))
    run.prepare(nn.Linear(4, 1))
    kept = {}
    for number, batch in enumerate(run.batches(Points()), 1):
        before = [parameter.detach().clone() for parameter in run.model.parameters()]
        run.update(run.model(batch["x"]).square().mean() * (torch.nan if number == 5 else 1.0))
        kept[number] = same(run.model.parameters(), before)
    assert [number for number in range(2, 13, 2) if kept[number]] == [2, 6]  # the warm-up begins at a rate of 0
    assert run.skipped == 1


def test_no_batches_to_accumulate_are_refused(config):
    with pytest.raises(ValueError, match="gradient_accumulation_steps 0: expected a number of batches from 1"):
        TrainingRun(replace(config, gradient_accumulation_steps=0))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GRADIENT_ACCUMULATION_STEPS", "4", r"STEPS 4: expected none .* the script --gradient_accumulation_steps"),
        ("USE_FSDP", "true", r"the launcher's FSDP: expected processes .* with configs/accelerate/multi_gpu\.yaml"),
        ("USE_DEEPSPEED", "true", "the launcher's DEEPSPEED: expected processes that each keep the whole model"),
    ],
)
def test_a_launcher_that_would_train_otherwise_is_refused(config, monkeypatch, name, value, sentence):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(ValueError, match=sentence):
        TrainingRun(config)
    assert not config.out.exists()


def test_the_folder_tells_config_commit_and_curves(config):
    logged = []
    run = train(config, lambda run: logged.append(run.evaluation_due()))
    assert [step for step, due in enumerate(logged, 1) if due] == [4, 6]
    text = (config.out / "config.yaml").read_text()
    assert text.startswith("# git commit: ") and yaml.safe_load(text)["model"] == {"width": 8}
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert all({"loss", "squared", "gradient_norm", "learning_rate"} < set(line) for line in lines)
    assert all(a["learning_rate"] > b["learning_rate"] for a, b in pairwise(lines))
    plot_curves(config.out / "metrics.jsonl", config.out / "curves.png")
    assert (config.out / "curves.png").stat().st_size > 1000
    assert list((config.out / "tensorboard").rglob("events.*")) and run.finished


def test_of_steps_that_a_kill_repeated_the_last_values_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2, "loss": 5}\n{"step": 4, "loss": 4}\n{"step": 4, "loss": 3}\n{"step": 6, "lo')
    assert read_metrics(path)["loss"].tolist() == [[2, 5], [4, 3]]
    assert read_metrics(tmp_path / "none") == {}


def test_averaged_weights_are_lent_and_given_back(config):
    run = train(config)
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    with run.averaged() as model:
        assert not model.training and not same(model.parameters(), before)
    assert same(run.model.parameters(), before)


def test_buffers_that_follow_the_weights_are_averaged_with_them(config):
    class Follower(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)
            self.register_buffer("total", torch.zeros(1))
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.total += 1.0
            self.updates += 1
            return self.linear(x).square().mean()

    set_seed(0)
    run = TrainingRun(config)
    run.prepare(Follower())
    expected, decays = 0.0, []
    for batch in run.batches(Points()):
        run.update(run.model(batch["x"]))
        decays.append(run.ema.cur_decay_value)
        expected = decays[-1] * expected + (1 - decays[-1]) * run.step
    with run.averaged() as model:
        assert model.total.item() == pytest.approx(expected, rel=1e-6) and model.updates == 6
    assert run.model.total == 6 and 0 < max(decays) < 1


def test_a_vq_model_is_averaged_with_its_codebook(config):
    from autoencoder import VQAutoencoder3D

    set_seed(0)
    run = TrainingRun(config)
    run.prepare(VQAutoencoder3D(channels=(4,), blocks_per_level=1, latent_channels=2, codebook_size=8))
    sums, usage = run.model.codebook.sums.clone(), run.model.codebook.usage.clone()
    for batch in run.batches(Points()):
        reconstruction, *_ = run.model(batch["x"][:, None, :, None, None].expand(-1, 1, 4, 4, 4))
        run.update(reconstruction.square().mean())
        decay = run.ema.cur_decay_value
        sums, usage = sums.lerp(run.model.codebook.sums, 1 - decay), usage.lerp(run.model.codebook.usage, 1 - decay)
    with run.averaged() as model:
        torch.testing.assert_close(model.codebook.vectors, sums / usage[:, None])
        assert not torch.allclose(model.codebook.vectors, run.model.codebook.sums, rtol=1e-3)


@pytest.mark.filterwarnings("ignore:.*is a no-op")  # a meta tensor takes no values, it only has its device
def test_a_continued_run_has_its_averages_on_its_device(config, monkeypatch):
    train(replace(config, max_minutes=0))
    run = TrainingRun(config)
    run.device = torch.device("meta")  # stands for any device that is not the CPU
    monkeypatch.setattr(run.accelerator.state, "device", run.device)
    run.prepare(nn.Sequential(nn.Linear(4, config.model.width), nn.Dropout(0.5), nn.Linear(config.model.width, 1)))
    assert run.step == 1
    assert {parameter.device.type for parameter in run.model.parameters()} == {"meta"}
    assert {average.device.type for average in run.ema.shadow_params} == {"meta"}
    run.ema.step(run.model.parameters())


def test_a_loop_without_update_is_named(config):
    run = TrainingRun(config)
    run.prepare(nn.Linear(4, 1))
    with pytest.raises(RuntimeError, match=r"calls run\.update exactly once per batch"):
        for _ in run.batches(Points()):
            pass


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(config, value):
    set_seed(0)
    run, kept = TrainingRun(config), {}
    run.prepare(nn.Linear(4, 1))
    for batch in run.batches(Points()):
        bad = run.step == 3
        before = [tensor.detach().clone() for tensor in (*run.model.parameters(), *run.ema.shadow_params)]
        run.update(run.model(batch["x"]).square().mean() * (value if bad else 1.0))
        after = [tensor.detach().clone() for tensor in (*run.model.parameters(), *run.ema.shadow_params)]
        kept[run.step] = all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert (
        kept == {step: step in (1, 4) for step in range(1, 7)} and run.skipped == 1
    )  # the warm-up begins at a rate of 0
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "skipped_steps" in line] == [4]


def test_a_run_of_steps_that_are_not_finite_stops_and_leaves_the_last_good_weights(config):
    config = replace(config, steps=60)
    good = []

    def diverging():
        set_seed(0)
        run = TrainingRun(config)
        run.prepare(nn.Linear(4, 1))
        for batch in run.batches(Points()):
            if run.step == 5:
                good.extend(parameter.detach().clone() for parameter in run.model.parameters())
            run.update(run.model(batch["x"]).square().mean() * (1.0 if run.step < 5 else torch.nan))

    with pytest.raises(ValueError, match=r"not finite for 20 steps in a row, up to step 25 \(loss nan\); the last che"):
        diverging()
    run = TrainingRun(config)
    run.prepare(nn.Linear(4, 1))
    assert run.step == 24 and same(run.model.parameters(), good)


def begin(folder, steps, seconds):
    """A run that kills its own process a time after so many of its steps: in writing, in computing or at rest."""
    kill = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL))
    taken = iter(range(1, 31))

    def each_step(run):
        if next(taken) == steps:
            kill.start()
        time.sleep(0.05)

    if steps == 0:
        kill.start()
    train(replace(short(folder), steps=30, checkpoint_every=1), each_step)


def test_a_run_killed_twelve_times_at_random_moments_ends_with_the_same_weights(tmp_path):
    torch.set_num_threads(1)
    wanted = weights(train(replace(short(tmp_path / "whole"), steps=30, checkpoint_every=1)))
    random, kills, steps = np.random.default_rng(0), 0, set()
    config = replace(short(tmp_path / "killed"), steps=30, checkpoint_every=1)
    while kills < 12:
        process = context.Process(target=begin, args=(tmp_path / "killed", kills % 4, random.uniform(0, 0.2)))
        process.start()
        process.join(PATIENCE_S)
        if process.exitcode == 0:  # it was faster than the kill: from the beginning
            shutil.rmtree(tmp_path / "killed")
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        lines = config.out / "metrics.jsonl"
        steps.add(len(lines.read_text().splitlines()) if lines.exists() else 0)
    run = train(config)
    assert run.finished and same(weights(run), wanted)
    assert len(steps) > 3  # they did fall at different moments


def test_an_unknown_precision_is_refused(config):
    with pytest.raises(ValueError, match='mixed_precision "fp64"; choose "no", "bf16" or "fp16"'):
        TrainingRun(replace(config, mixed_precision="fp64"))


def test_a_stop_before_the_first_step_is_refused(config):
    with pytest.raises(ValueError, match="stop_at 0: expected a step from 1, or none"):
        TrainingRun(replace(config, stop_at=0))


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_none_is_refused(config, minutes):
    with pytest.raises(ValueError, match=f"budget_minutes {minutes}: expected a time above 0, or none"):
        TrainingRun(replace(config, budget_minutes=minutes))


def test_a_child_with_a_rate_of_its_own_is_clipped_by_itself(config):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.discriminator = nn.Linear(4, 1), nn.Linear(4, 1)

        def forward(self, x):
            return self.body(x).square().mean() + 1e6 * self.discriminator(x).square().mean()

    set_seed(0)
    run = TrainingRun(replace(config, steps=1, warmup_steps=0))
    run.prepare(Two(), {"discriminator": 0.5})
    rates = [group["lr"] for group in run.optimizer.param_groups]
    counts = [len(group["params"]) for group in run.optimizer.param_groups]
    assert rates == [config.learning_rate, 0.5] and counts == [2, 2]
    for batch in run.batches(Points()):
        run.update(run.model(batch["x"]))
    moments = run.optimizer.state
    for group in run.optimizer.param_groups:  # the first moment is 0.1 of the clipped gradient
        norm = torch.cat([moments[parameter]["exp_avg"].flatten() for parameter in group["params"]]).norm() / 0.1
        assert norm.item() == pytest.approx(1.0, rel=1e-3)
