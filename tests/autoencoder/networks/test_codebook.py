"""The codebook against scikit-learn's k-means, the update written out, and across processes."""

import os

import pytest
import torch
import torch.distributed as dist
from forked import PATIENCE_S, context
from torch.utils._python_dispatch import TorchDispatchMode

from autoencoder.networks.codebook import EmaCodebook, perplexity


def clusters(per_cluster=40, seed=0):
    """Cells (1, 2, d, 1, 1) around four corners, and those."""
    random = torch.Generator().manual_seed(seed)
    corners = torch.tensor([[-4.0, -4.0], [-4.0, 4.0], [4.0, -4.0], [4.0, 4.0]])
    cells = corners.repeat(per_cluster, 1) + 0.3 * torch.randn(4 * per_cluster, 2, generator=random)
    return cells.T.reshape(1, 2, -1, 1, 1), corners


def test_nearest_is_the_code_of_least_distance():
    codebook = EmaCodebook(7, 3)
    latent = torch.randn(2, 3, 2, 3, 4)
    distances = torch.cdist(latent.movedim(1, -1).reshape(-1, 3), codebook.vectors)
    assert torch.equal(codebook.nearest(latent).flatten(), distances.argmin(1))
    codes = codebook.lookup(codebook.nearest(latent))
    assert torch.equal(codes.movedim(1, -1).reshape(-1, 3), codebook.vectors[distances.argmin(1)])


def test_first_update_places_the_codes_as_kmeans_does():
    from sklearn.cluster import KMeans  # which the processes below do without

    latent, _ = clusters()
    codebook = EmaCodebook(4, 2)
    codebook.update(latent)
    cells = latent.flatten(2)[0].T
    expected = KMeans(4, n_init=1, random_state=0).fit(cells.numpy()).cluster_centers_
    assert torch.cdist(torch.tensor(expected), codebook.vectors).min(1).values.max() < 1e-4


def test_codes_follow_the_moving_average_of_their_cells():
    latent, corners = clusters()
    codebook = EmaCodebook(4, 2, decay=0.9)
    codebook.update(latent)
    usage, sums = codebook.usage.clone(), codebook.sums.clone()
    moved = latent[:, :, 3::4] + 0.5  # a batch of the fourth cluster alone
    codebook.update(moved)
    code = int(torch.cdist(codebook.vectors, corners[3:]).argmin())
    expected = (0.9 * sums[code] + 0.1 * moved.flatten(2)[0].sum(1)) / (0.9 * usage[code] + 0.1 * moved.shape[2])
    torch.testing.assert_close(codebook.vectors[code], expected)


class Sizes(TorchDispatchMode):
    """Notes (elements, type) of every tensor that is made."""

    def __init__(self):
        super().__init__()
        self.made = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.made.add((tensor.numel(), tensor.dtype))
        return result


def test_the_update_makes_no_matrix_of_cells_by_codes_but_the_distances():
    codebook = EmaCodebook(50, 3)
    codebook.updates += 1  # so that no k-means runs
    latent = torch.randn(1, 3, 4, 5, 7)
    expected = torch.zeros(50, 3, dtype=torch.float64)
    for cell, code in zip(latent.flatten(2)[0].T, codebook.nearest(latent).flatten(), strict=True):
        expected[code] += cell.double()
    expected = 0.99 * codebook.sums + 0.01 * expected
    codebook.dead_below = 0.0
    with Sizes() as sizes:
        codebook.update(latent)
    assert (140 * 50, torch.float32) in sizes.made
    assert (140 * 50, torch.int64) not in sizes.made
    torch.testing.assert_close(codebook.sums, expected.float())


def test_a_dead_code_comes_back_on_a_cell_of_the_batch():
    latent, _ = clusters()
    codebook = EmaCodebook(4, 2)
    codebook.update(latent)
    codebook.usage[2], codebook.sums[2] = 1e-6, 1e-3  # far away, and nobody's code
    codebook.update(latent)
    assert torch.cdist(codebook.vectors[2:3], latent.flatten(2)[0].T).min() < 1e-5
    assert codebook.usage.min() > 1


def test_more_codes_than_cells_leave_no_code_undefined():
    codebook = EmaCodebook(64, 2)
    codebook.update(torch.randn(1, 2, 2, 3, 2))
    assert torch.isfinite(codebook.vectors).all() and (codebook.usage > 0).all()


def test_padding_does_not_reach_the_codebook():
    latent, _ = clusters()
    padded = torch.cat([latent, torch.full((1, 2, 50, 1, 1), 99.0)], dim=2)
    valid = torch.cat([torch.ones(1, 1, latent.shape[2], 1, 1), torch.zeros(1, 1, 50, 1, 1)], dim=2)
    with_padding, without = EmaCodebook(4, 2), EmaCodebook(4, 2)
    with_padding.update(padded, valid)
    without.update(latent)
    assert torch.equal(with_padding.vectors, without.vectors)
    before = without.vectors.clone()
    without.update(latent, torch.zeros(1, 1, latent.shape[2], 1, 1))  # nothing valid: nothing learned
    assert torch.equal(without.vectors, before)


def test_a_loaded_codebook_goes_on_as_the_one_that_was_saved():
    codebook, loaded = EmaCodebook(32, 2), EmaCodebook(32, 2)
    codebook.update(clusters(seed=1)[0])
    loaded.load_state_dict(codebook.state_dict())
    for seed in range(2, 5):
        codebook.update(clusters(2, seed)[0])
        loaded.update(clusters(2, seed)[0])
    assert torch.equal(codebook.vectors, loaded.vectors)


def test_autocast_does_not_round_the_codebook():
    exact, autocast = EmaCodebook(4, 2), EmaCodebook(4, 2)
    for seed in range(3):
        exact.update(clusters(seed=seed)[0])
        with torch.autocast("cpu", torch.bfloat16):
            autocast.update(clusters(seed=seed)[0])
            assert torch.equal(autocast.nearest(clusters()[0]), exact.nearest(clusters()[0]))
    assert torch.equal(exact.vectors, autocast.vectors)


@pytest.mark.parametrize(("indices", "expected"), [([0, 1, 2, 3], 4.0), ([5] * 7, 1.0), ([0, 0, 1, 1], 2.0)])
def test_perplexity_counts_the_codes_in_even_use(indices, expected):
    assert perplexity(torch.tensor(indices), 8).item() == pytest.approx(expected)


def _update_in_process(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    codebook = EmaCodebook(16, 2)
    for seed in range(3):
        cells = clusters(10, seed)[0]
        codebook.update(cells[:, :, :15] if rank == 0 else cells[:, :, 15:])  # unequal parts
    torch.save(codebook.state_dict(), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_learn_the_codebook_of_one_that_sees_all(tmp_path):
    alone = EmaCodebook(16, 2)
    for seed in range(3):
        alone.update(clusters(10, seed)[0])
    processes = [context.Process(target=_update_in_process, args=(rank, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for rank, process in enumerate(processes):
        process.join(PATIENCE_S)
        state = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert all(torch.equal(state[name], value) for name, value in alone.state_dict().items())
