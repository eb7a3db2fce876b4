"""Draw k is a function of the seed and of k alone."""

import numpy as np
import pytest
import torch

from foundation.draws import STREAMS, generator
from training.draws import DrawSampler, normal, timesteps

CPU = torch.device("cpu")


def draws(**settings):
    """All (row, draw) pairs of a sampler, in order."""
    sampler = DrawSampler(**{"size": 7, "batch_size": 3, "steps": (0, 14), "seed": 5} | settings)
    batches = list(sampler)
    assert len(batches) == len(sampler) and {len(batch) for batch in batches} == {sampler.batch_size}
    return [draw for batch in batches for draw in batch]


def test_every_epoch_is_another_permutation_of_all_rows():
    pairs = draws()
    assert [draw for _, draw in pairs] == list(range(42))
    epochs = [tuple(row for row, _ in pairs[start : start + 7]) for start in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(epochs)) == 6
    assert draws() == pairs and draws(seed=6) != pairs


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1, 1, 1, 9]])
def test_from_any_step_on_the_rest_is_drawn_that_would_have_been_drawn(weights):
    assert draws(steps=(9, 14), weights=weights) == draws(weights=weights)[27:]


@pytest.mark.parametrize("weights", [None, [1, 1, 1, 1, 1, 1, 9]])
def test_two_processes_together_draw_what_one_with_twice_the_batch_draws(weights):
    settings = {"processes": 2, "weights": weights}
    ranks = [np.reshape(draws(rank=rank, **settings), (14, 3, 2)) for rank in range(2)]
    together = np.concatenate(ranks, axis=1).reshape(-1, 2)
    np.testing.assert_array_equal(together, draws(batch_size=6, weights=weights))


def test_weights_balance_classes_of_unequal_size():
    labels = np.array([0] * 18 + [1] * 2)
    weights = 1 / np.bincount(labels)[labels]
    rows = [row for row, _ in draws(size=20, batch_size=10, steps=(0, 200), weights=list(weights))]
    assert labels[rows].mean() == pytest.approx(0.5, abs=0.04)  # 3.6 standard deviations of 2000 draws
    counts = np.bincount(rows, minlength=20)
    assert counts[:18].min() > 25 and counts[18:].min() > 400


def test_noise_and_timesteps_of_a_row_depend_on_its_draw_alone():
    shape = (2, 3, 4)
    together = normal(shape, 1, "noise", torch.tensor([5, 900]), CPU)
    assert torch.equal(together[1:], normal(shape, 1, "noise", torch.tensor([900]), CPU))
    others = [normal(shape, 2, "noise", torch.tensor([900]), CPU)]
    others += [normal(shape, 1, stream, torch.tensor([900]), CPU) for stream in STREAMS if stream != "noise"]
    others += [together[:1]]
    assert all((other != together[1:]).all() for other in others)
    t = timesteps(1000, 1, torch.tensor([5, 900]), CPU)
    assert t.dtype == torch.int64 and torch.equal(t[1:], timesteps(1000, 1, torch.tensor([900]), CPU))


def test_noise_is_standard_normal_and_timesteps_are_uniform():
    numbers = torch.arange(2000)
    noise = normal((5,), 3, "noise", numbers, CPU)
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.04 and abs(noise.std() - 1) < 0.03  # four standard errors
    assert np.abs(np.corrcoef(noise.T.numpy()) - np.eye(5)).max() < 0.1
    counts = torch.bincount(timesteps(10, 3, numbers, CPU), minlength=10)
    assert len(counts) == 10 and (counts - 200).abs().max() < 60  # 4.5 standard deviations


def test_an_empty_dataset_weights_of_another_length_and_an_unknown_stream_are_refused():
    with pytest.raises(ValueError, match="the dataset has no rows; check the split"):
        DrawSampler(0, 3, (0, 1), 0)
    with pytest.raises(ValueError, match="2 sampling weights for 7 rows; give one per row"):
        DrawSampler(7, 3, (0, 1), 0, weights=[1, 2])
    with pytest.raises(ValueError):
        generator(0, "weather", 0)
