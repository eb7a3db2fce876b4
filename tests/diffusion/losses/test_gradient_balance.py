import math

import pytest
import torch

from diffusion.losses.cooccurrence import cooccurrence_loss
from diffusion.losses.gabor import GaborBank, gabor_loss
from diffusion.losses.gradient_balance import combined_gradient, gradient_statistics, loss_gradients


def gradient_rows(*rows: tuple[float, ...]) -> torch.Tensor:
    """(B, 1, 1, 1, n): one sample a row."""
    return torch.tensor(rows)[:, None, None, None, :]


def ones(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: torch.ones(len(g)) for name, g in gradients.items()}


def network_and_losses(seed: int = 0) -> tuple[torch.nn.Module, torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(seed)
    network = torch.nn.Conv3d(1, 1, 3, padding=1)
    target = 0.3 * torch.randn(2, 1, 4, 6, 5)
    mask = torch.zeros(2, 1, 4, 6, 5)
    mask[:, :, 1:3, 1:5, 1:4] = 1
    x0_hat = network(torch.randn(2, 1, 4, 6, 5))
    return (
        network,
        x0_hat,
        {
            "structure": (x0_hat - target).square().flatten(1).mean(1),
            "gabor": gabor_loss(x0_hat, target, mask, GaborBank((0.2,), 2), reduction="none"),
            "cooccurrence": cooccurrence_loss(x0_hat, target, mask, bins=8, reduction="none"),
        },
    )


def test_unbalanced_gradient_trains_the_network_like_the_weighted_total():
    network, x0_hat, losses = network_and_losses()
    weights = {name: torch.tensor([0.7, 0.2]) * (k + 1) for k, name in enumerate(losses)}
    total = sum((weights[name] * losses[name]).mean() for name in losses)
    expected = torch.autograd.grad(total, list(network.parameters()), retain_graph=True)
    x0_hat.backward(combined_gradient(loss_gradients(losses, x0_hat), weights))
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_norm_balance_gives_every_loss_the_references_norm_times_its_weight_in_each_sample():
    _, x0_hat, losses = network_and_losses()
    gradients = loss_gradients(losses, x0_hat)
    size = gradients["structure"].flatten(1).norm(dim=1)
    assert (gradients["gabor"].flatten(1).norm(dim=1) / size - 1).abs().min() > 0.1  # they differ before
    for name in losses:
        weights = {other: torch.zeros(2) for other in losses} | {name: torch.tensor([1.0, 0.25])}
        alone = combined_gradient(gradients, weights, "norm")
        torch.testing.assert_close(2 * alone.flatten(1).norm(dim=1), size * torch.tensor([1.0, 0.25]))


def test_norm_balance_leaves_zero_gradients_zero_and_needs_a_reference_gradient():
    gradients = {"structure": gradient_rows((3.0, 4.0), (0.0, 0.0)), "gabor": gradient_rows((0.0, 0.0), (0.0, 2.0))}
    combined = combined_gradient(gradients, ones(gradients), "norm")
    torch.testing.assert_close(2 * combined, gradient_rows((3.0, 4.0), (0.0, 2.0)))


def test_projection_of_two_conflicting_gradients_is_the_closed_form():
    gradients = {"structure": gradient_rows((2.0, 0.0)), "gabor": gradient_rows((-1.0, 1.0))}
    combined = combined_gradient(gradients, ones(gradients), "project")
    # (2, 0) loses its part along (-1, 1): (1, 1); (-1, 1) its part along (2, 0): (0, 1)
    torch.testing.assert_close(combined, gradient_rows((1.0, 2.0)))


def test_projection_leaves_agreeing_gradients_and_agreeing_samples_alone():
    gradients = {
        "structure": gradient_rows((2.0, 0.0), (2.0, 0.0)),
        "gabor": gradient_rows((1.0, 1.0), (-1.0, 1.0)),
    }
    combined = combined_gradient(gradients, ones(gradients), "project")
    torch.testing.assert_close(2 * combined, gradient_rows((3.0, 1.0), (1.0, 2.0)))


def test_projected_gradient_of_two_losses_opposes_neither():
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(50, 1, 2, 3, 4, generator=generator) for _ in range(2))
    other = other - 0.8 * one  # mostly in conflict
    gradients = {"structure": one, "gabor": other}
    combined = combined_gradient(gradients, ones(gradients), "project").flatten(1)
    for gradient in gradients.values():
        assert ((combined * gradient.flatten(1)).sum(1) > -1e-5).all()
    plain = combined_gradient(gradients, ones(gradients)).flatten(1)
    assert ((plain * one.flatten(1)).sum(1) < -1e-5).any()


def test_norm_and_projection_together_are_one_after_the_other():
    gradients = {"structure": gradient_rows((2.0, 0.0)), "gabor": gradient_rows((-10.0, 10.0))}
    equal = {"structure": gradients["structure"], "gabor": gradient_rows((-math.sqrt(2), math.sqrt(2)))}
    torch.testing.assert_close(
        combined_gradient(gradients, ones(gradients), "norm_project"),
        combined_gradient(equal, ones(equal), "project"),
    )


def test_statistics_are_norms_and_cosines_over_the_samples_that_have_them():
    gradients = {
        "structure": gradient_rows((3.0, 4.0), (1.0, 0.0)),
        "gabor": gradient_rows((0.0, 0.0), (-1.0, 1.0)),
        "dog": gradient_rows((0.0, 0.0), (0.0, 0.0)),
    }
    statistics = gradient_statistics(gradients)
    assert statistics == pytest.approx(
        {
            "grad_norm/structure": 3.0,
            "grad_norm/gabor": math.sqrt(2),
            "grad_norm/dog": 0.0,
            "grad_cosine/structure/gabor": -1 / math.sqrt(2),
        }
    )


def test_a_loss_that_does_not_depend_on_the_prediction_has_zero_gradient():
    x0_hat = torch.randn(2, 1, 2, 3, 4, requires_grad=True) * 1
    unrelated = torch.ones(2, requires_grad=True) * 2
    gradients = loss_gradients({"constant": torch.zeros(2), "unrelated": unrelated}, x0_hat)
    assert all(torch.equal(g, torch.zeros_like(x0_hat)) for g in gradients.values())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g, w: combined_gradient(g, w, "pcgrad"), "balance"),
        (lambda g, w: combined_gradient(g, {"structure": w["structure"]}), "same losses"),
        (lambda g, w: combined_gradient(g, w, "norm", reference="mse"), "reference"),
        (lambda g, w: loss_gradients({"gabor": torch.zeros(())}, g["gabor"]), "one per sample"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, message):
    gradients = {"structure": gradient_rows((1.0, 0.0)), "gabor": gradient_rows((0.0, 1.0))}
    with pytest.raises(ValueError, match=message):
        call(gradients, ones(gradients))
