"""Two processes train as one process with twice the batch, also with the discriminator's adaptive weight."""

import json
from pathlib import Path

import pytest
import torch
from forked import expect, start, start_ranks

STEPS = 2  # the first step's gradient is zero behind layers that start at zero; the second's is not
RTOL = (
    3e-4  # of a tensor's norm: float32 sums in another order; 4e-6 with AVX-512, 3e-5 with AVX2, 0.06 with half a batch
)
ROUNDING = 1e-7  # norm of what is left of a gradient of 0: a relativistic loss compares logits, so their biases cancel


def gradients(out: Path) -> dict[int, torch.Tensor]:
    """AdamW's first moment after two steps, 0.5 g2 + 0.25 g1, of every parameter (b1 = 0.5, no clipping)."""
    state = torch.load(out / "checkpoint/state.pt", weights_only=True)
    assert state["step"] == STEPS
    return {index: moments["exp_avg"] for index, moments in state["parts"]["optimizer"]["state"].items()}


def options(batch_size: int, data: Path, out: Path) -> list[str]:
    """Of scripts/train_vae.py, for two steps."""
    return (
        f"--data {data} --out {out} --steps {STEPS} --batch-size {batch_size} --patch-size 16 --warmup-steps 0 "
        "--max-grad-norm 1e9 --log-every 1 --evaluate-crops 1 --model.channels 8,16 --model.blocks_per_level 1 "
        "--losses.wavelet 0.1 --losses.adversarial 0.5 --losses.adversarial_start 0 "
        "--losses.adversarial_head_start 0 --discriminator_channels 8,8"
    ).split()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(phantom_dataset, tmp_path):
    log = tmp_path / "log"
    alone = [
        start("train_vae", options(batch_size, phantom_dataset, tmp_path / name), log)
        for name, batch_size in (("one", 8), ("half", 4))
    ]
    for process in [*alone, *start_ranks(2, "train_vae", options(4, phantom_dataset, tmp_path / "two"), log)]:
        expect(process, log)

    one, half, two = (gradients(tmp_path / name) for name in ("one", "half", "two"))
    assert one.keys() == two.keys() and sum(bool(moment.norm() < ROUNDING) for moment in one.values()) == 2
    for index, expected in one.items():
        if expected.norm() < ROUNDING:
            continue
        assert (two[index] - expected).norm() < RTOL * expected.norm()
        assert (half[index] - expected).norm() > 0.01 * expected.norm()  # what one process alone would have
    lines = (tmp_path / "two/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines if "loss" in json.loads(line)] == [1, 2]  # one process writes
    assert (tmp_path / "two/model/diffusion_pytorch_model.safetensors").exists()
