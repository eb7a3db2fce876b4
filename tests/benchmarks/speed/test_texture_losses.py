"""The texture losses against their literal forms."""

import json

import pytest

from benchmarks.speed import texture_losses
from benchmarks.speed.texture_losses import FORMS


@pytest.mark.parametrize("form", [form for form in FORMS if "," in form])
def test_a_loss_has_the_value_and_the_gradient_of_its_literal_forms(form):
    inputs = texture_losses.example(10, 5, "cpu")
    fast, literal = (texture_losses.run(FORMS[name], *inputs) for name in (form.split(",")[0], form))
    assert literal["value"] > 0 and literal["slope"] != 0
    assert [fast[key] for key in ("value", "slope")] == pytest.approx([literal[k] for k in ("value", "slope")], 1e-3)


def test_one_form_is_measured_alone(capsys):
    texture_losses.main(texture_losses.Config(size=14, diameter=7, only="cooccurrence"))
    assert json.loads(capsys.readouterr().out).keys() == {"value", "slope", "seconds", "mib"}
