"""Unpaired translation: the cycle, whose gradient goes where, and samples of a generator that knows the truth."""

import pytest
import torch
from tiny_models import randomised
from torch import nn

from diffusion.option_types import TranslationWeights
from diffusion.spectral_filters import TAPS, Filters
from diffusion.translation import DIRECTIONS, UnpairedTranslation
from diffusion.translator import Translator, cosine_signal

SHAPE = (2, 1, 12, 12, 16)


class Add(nn.Module):
    """A generator whose residual is always the same."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, source, field=None, signal=None):
        return torch.full_like(source, self.value)


def identity() -> Filters:
    same = torch.zeros(3 * (TAPS,))
    same[3 * (TAPS // 2,)] = 1
    return Filters(same, same, torch.zeros_like(same))


def made(process="syndiff", **weights):
    torch.manual_seed(0)
    translator = Translator(process, channels=4, blocks=1)
    start = {name: identity() for name in DIRECTIONS}
    return randomised(UnpairedTranslation(translator, start, TranslationWeights(**weights), (4, 4)))


def volumes(count=2):
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1)).unbind()


def reached(module: nn.Module) -> set[str]:
    """Children of the parts of the model that hold a gradient."""
    return {".".join(name.split(".")[:2]) for name, p in module.named_parameters() if p.grad is not None}


def test_the_cycle_of_an_exactly_invertible_pair_is_0():
    model, (a, b) = made("cyclegan"), volumes()
    model.translator.a_to_b, model.translator.b_to_a = Add(3.0), Add(-3.0)
    _, parts = model(a, b)
    assert parts["a_to_b_cycle"] == pytest.approx(0, abs=1e-6) and parts["b_to_a_cycle"] == pytest.approx(0, abs=1e-6)
    model.translator.b_to_a = Add(-1.0)  # two units are left, whichever way round
    _, parts = model(a, b)
    assert parts["a_to_b_cycle"] == pytest.approx(2, rel=1e-5) and parts["b_to_a_cycle"] == pytest.approx(2, rel=1e-5)


def test_each_loss_has_a_gradient_for_its_own_network_alone():
    (a, b) = volumes()
    for loss, own in (
        ("l1", "translator.a_to_b"),
        ("adversarial", "translator.a_to_b"),
        ("step", "discriminators.a_to_b_step"),
    ):
        model = made().train()
        model.step_losses("a_to_b", model.estimate(b, "b_to_a").detach(), b, 1.0)[loss].backward()
        assert reached(model) == {own}, loss
    for number, own in ((0, "estimators.a_to_b"), (1, "discriminators.a_to_b_estimate")):
        model = made().train()
        model.estimate_losses("a_to_b", b, model.estimate(a, "a_to_b"))[number].backward()
        assert reached(model) == {own}


def test_the_estimators_learn_nothing_from_the_diffusion():
    a, b = volumes()
    gradients = []
    for adversarial in (0.0, 1.0):
        model = made(adversarial=adversarial, penalty=0.0, cycle=0.0, head_start=0).train()
        torch.manual_seed(2)
        model(a, b)[0].backward()
        gradients.append(model.estimators.a_to_b.last.weight.grad.abs().max())
    assert gradients[0] == 0 < gradients[1]  # without an adversary and a cycle nothing is left that teaches them


def test_discriminators_have_a_head_start():
    a, b = volumes()
    model = made(cycle=0.0, head_start=1).train()
    for taught in (False, True):
        model.zero_grad()
        model(a, b)[0].backward()
        assert bool(model.translator.a_to_b.last.weight.grad.any()) == taught
        assert model.discriminators.a_to_b_step.first.weight.grad.any()


@pytest.mark.parametrize("process", ["syndiff", "ddpm"])
def test_a_generator_that_knows_the_residual_is_followed_to_it(process):
    source, truth = volumes()
    translator = Translator(process, calls=4, channels=4, blocks=0)
    signals: list[float] = []

    def oracle(generator, source, noisy, signal):
        signals.append(float(signal[0]))
        return truth

    made = translator.residual(source, "a_to_b", torch.Generator().manual_seed(0), oracle)
    assert made.equal(truth)
    assert signals == sorted(signals) and len(signals) == 4


def test_the_noisy_residual_has_the_variance_of_its_level():
    """Followed by the oracle of a residual of unit variance, x_t has unit variance at every level."""
    truth = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(1))
    variances: list[float] = []

    def oracle(generator, source, noisy, signal):
        variances.append(float(noisy.var()))
        assert float((noisy * truth).mean()) == pytest.approx(float(signal[0]) ** 0.5, abs=0.03)
        return truth

    Translator(channels=4, blocks=0).residual(truth, "a_to_b", torch.Generator().manual_seed(0), oracle)
    assert variances == pytest.approx([1, 1, 1, 1], abs=0.03)


def test_the_cosine_schedule_is_that_of_diffusers():
    from diffusers import DDPMScheduler

    alphas = DDPMScheduler(1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    share = torch.tensor([100, 400, 800]) / 1000
    assert cosine_signal(share).float() == pytest.approx(alphas[[99, 399, 799]], rel=1e-3)


def test_a_residual_has_no_mean_over_a_neighbourhood():
    """So organs keep their HU whatever the network says; at the borders the neighbourhood is one-sided."""
    model = made()
    source = volumes(1)[0].repeat(1, 1, 3, 3, 2)
    residual = model.translator.a_to_b(source, torch.randn_like(source), torch.full((2,), 0.5))
    assert residual.std() > 0.01
    assert abs(residual[..., 8:-8, 8:-8, 8:-8].mean()) < 0.02 * residual.std()


def test_a_fresh_translator_adds_nothing_to_its_filter(tmp_path):
    translator = Translator(channels=4, blocks=1)
    source = volumes(1)[0]
    assert translator.residual(source, "b_to_a", torch.Generator().manual_seed(0)).equal(torch.zeros_like(source))
    assert torch.allclose(translator.base(source, "b_to_a"), source, atol=1e-5)
    hu = torch.tensor([-1000.0, 0.0, 400.0])
    assert translator.to_hu(translator.to_units(hu)) == pytest.approx(hu)
    translator.filter_a_to_b[0, 0, 0] = 0.5
    translator.save_pretrained(tmp_path)
    assert Translator.from_pretrained(tmp_path).filter_a_to_b.equal(translator.filter_a_to_b)
