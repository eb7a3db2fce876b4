"""Training scripts that are killed and started again end with the very weights of an undisturbed run, on CPU."""

import json
import os
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from forked import PATIENCE_S, expect, start

from diffusion import LesionInpaintPipeline, PairedLesionPipeline
from diffusion.syndiff_scheduler import SynDiffScheduler

STEPS = 120
SHORT = f"--seed 3 --steps {STEPS} --batch-size 2 --warmup-steps 5 --log-every 1 --checkpoint-every 60"

pytestmark = pytest.mark.slow


class Command:
    """A training script with its arguments, run in processes of its own, one thread, CPU.

    SimpleITK and radiomics cannot be imported there: training reads the prepared dataset and nothing else.
    """

    def __init__(self, folder: Path, script: str, options: str) -> None:
        self.folder, self.script, self.argv = folder, script, [*options.split(), *SHORT.split()]

    def start(self, name: str, *options: str) -> BaseProcess:
        """Start or continue the run `name`; its output is appended to `<name>.log`."""
        argv = [*self.argv, "--out", self.folder / name, *options]
        return start(self.script, argv, self.folder / f"{name}.log", without="SimpleITK radiomics")

    def finish(self, name: str, *options: str) -> None:
        self.expect(self.start(name, *options), name, 0)

    def expect(self, process: BaseProcess, name: str, status: int) -> None:
        expect(process, self.folder / f"{name}.log", status)

    def signal_in_mid_training(self, name: str, step: int, number: int, status: int) -> None:
        """Start, send the signal once `step` is logged, and see the run end before its last step."""
        process = self.start(name)
        deadline = time.monotonic() + PATIENCE_S
        while self.last_step(name) < step:
            assert process.exitcode is None, (self.folder / f"{name}.log").read_text()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        os.kill(process.pid, number)
        self.expect(process, name, status)
        assert self.last_step(name) < STEPS

    def logged_steps(self, name: str) -> list[int]:
        path = self.folder / name / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line)["step"] for line in lines]

    def last_step(self, name: str) -> int:
        return max(self.logged_steps(name), default=0)


def assert_same_weights(a: Path, b: Path) -> None:
    files = sorted(path.relative_to(a) for path in a.rglob("*.safetensors"))
    assert files and files == sorted(path.relative_to(b) for path in b.rglob("*.safetensors"))
    for file in files:
        assert (a / file).read_bytes() == (b / file).read_bytes(), file


def test_train_vae_killed_and_terminated_ends_with_the_same_weights(phantom_dataset, tmp_path):
    options = "--model.channels 4,8 --model.blocks_per_level 1 --patch-size 8 --evaluate-crops 2"
    options += " --model.kind vq --model.codebook_size 16"  # the codebook and the discriminator are state, too
    options += " --losses.adversarial 0.5 --losses.adversarial_start 40 --losses.adversarial_head_start 10"
    options += " --discriminator-channels 4,4"
    train = Command(tmp_path, "train_vae", f"--data {phantom_dataset} {options}")
    undisturbed = train.start("undisturbed")
    train.signal_in_mid_training("killed", 65, signal.SIGKILL, -signal.SIGKILL)  # after the checkpoint at 60
    assert not (tmp_path / "killed/model").exists()
    train.signal_in_mid_training("killed", 80, signal.SIGTERM, 0)
    assert "the same command continues" in (tmp_path / "killed.log").read_text()
    stopped_at = train.last_step("killed")
    train.finish("killed")
    steps = train.logged_steps("killed")
    assert steps.count(1) == steps.count(60) == 1  # the second start went on from 60, not from the beginning
    assert steps.count(65) == 2  # which the kill had lost
    assert steps.count(stopped_at) == 1 and set(steps) == set(range(1, STEPS + 1))  # SIGTERM lost nothing
    train.expect(undisturbed, "undisturbed", 0)
    assert_same_weights(tmp_path / "killed/model", tmp_path / "undisturbed/model")


def test_train_ldm_out_of_time_and_killed_ends_with_the_same_weights(chain, tmp_path):
    options = "--model.channels 8,16 --model.blocks_per_level 1 --model.map_channels 4 --evaluate-crops 2"
    options += " --model.attributes [malignancy,mean_hu] --model.num_labels 8"  # as configs/shipped
    options += " --whole-share 0.3 --density 2 --decoded 2 --model.scaled_input true"
    options += " --mixed-precision bf16"
    inputs = f"--data {chain.latents} --vae {chain.vae / 'model'}"
    train = Command(tmp_path, "train_ldm", f"{inputs} {options} --evaluate-steps 2")
    undisturbed = train.start("undisturbed")
    train.finish("killed", "--max-minutes", "1e-6")
    assert train.logged_steps("killed") == [1] and not (tmp_path / "killed/pipeline").exists()
    train.signal_in_mid_training("killed", 65, signal.SIGKILL, -signal.SIGKILL)
    train.finish("killed")
    train.expect(undisturbed, "undisturbed", 0)
    assert_same_weights(tmp_path / "killed/pipeline", tmp_path / "undisturbed/pipeline")


def test_adversarial_diffusion_goes_on_from_a_trained_stage_two_and_resumes(chain, tmp_path):
    options = "--model.channels 8,16 --model.blocks_per_level 1 --model.map_channels 4 --evaluate-crops 2"
    options += " --objective adversarial --adversarial.image 1 --adversarial.latent 1 --adversarial.calls 2"
    options += " --adversarial.simulated 0.5 --adversarial.reconstruction 1"
    inputs = f"--data {chain.latents} --vae {chain.vae / 'model'} --initial {chain.ldm / 'pipeline'}"
    train = Command(tmp_path, "train_ldm", f"{inputs} {options}")
    few = ("--checkpoint-every", "2", "--steps", "6")
    undisturbed = train.start("undisturbed", *few)
    train.finish("stopped", *few, "--max-minutes", "1e-6")
    assert train.logged_steps("stopped") == [1] and not (tmp_path / "stopped/pipeline").exists()
    train.finish("stopped", *few)
    train.expect(undisturbed, "undisturbed", 0)
    assert_same_weights(tmp_path / "stopped/pipeline", tmp_path / "undisturbed/pipeline")
    scheduler = LesionInpaintPipeline.from_pretrained(tmp_path / "stopped/pipeline").scheduler
    assert isinstance(scheduler, SynDiffScheduler)


def test_paired_generation_goes_on_from_a_trained_stage_two_and_resumes(chain, tmp_path):
    options = "--mask_model.channels 8,16 --evaluate-crops 2 --evaluate-steps 2 --whole-share 0.5"
    train = Command(tmp_path, "train_pig", f"--data {chain.latents} --initial {chain.ldm / 'pipeline'} {options}")
    few = ("--checkpoint-every", "2", "--steps", "6")
    undisturbed = train.start("undisturbed", *few)
    train.finish("stopped", *few, "--max-minutes", "1e-6")
    assert train.logged_steps("stopped") == [1] and not (tmp_path / "stopped/pipeline").exists()
    train.finish("stopped", *few)
    train.expect(undisturbed, "undisturbed", 0)
    assert_same_weights(tmp_path / "stopped/pipeline", tmp_path / "undisturbed/pipeline")
    pipeline = PairedLesionPipeline.from_pretrained(tmp_path / "stopped/pipeline")
    assert pipeline.generate(1, diameter_mm=6.0, num_inference_steps=2).ct.shape == (1, 1, 16, 16, 16)
    before = LesionInpaintPipeline.from_pretrained(chain.ldm / "pipeline").unet.conv_out.weight
    assert not before.equal(pipeline.unet.conv_out.weight)  # model_y has learnt, too


def test_train_classifier_killed_ends_with_the_same_weights_figures_and_control(chain, tmp_path):
    options = "--model.channels 8,16 --model.cells 4 --shuffles 2 --resamples 20"
    inputs = f"--data {chain.latents} --pipeline {chain.ldm / 'pipeline'}"
    train = Command(tmp_path, "train_classifier", f"{inputs} {options}")
    undisturbed = train.start("undisturbed")
    train.signal_in_mid_training("killed", 65, signal.SIGKILL, -signal.SIGKILL)
    train.finish("killed")
    train.expect(undisturbed, "undisturbed", 0)
    assert_same_weights(tmp_path / "killed/pipeline", tmp_path / "undisturbed/pipeline")
    reports = [json.loads((tmp_path / name / "report/report.json").read_text()) for name in ("killed", "undisturbed")]
    assert reports[0]["figures"] == reports[1]["figures"] and reports[0]["figures"]["malignancy"]["control"]
