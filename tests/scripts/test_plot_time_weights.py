import matplotlib.image
import numpy as np
import pytest
import torch

from diffusion.losses.time_weights import TIME_POLICIES
from diffusion.process import training_scheduler
from scripts.plot_time_weights import Config, example_policy, figure_of, main


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_every_policy_has_a_panel_with_its_weights(target):
    config = Config(steps=20, target=target)
    alphas = training_scheduler(target, config.schedule, 20).alphas_cumprod
    panels = {axis.get_title(): axis for axis in figure_of(config).axes}
    for name in TIME_POLICIES:
        policy, title = example_policy(name, config)
        with torch.no_grad():
            weights = policy(torch.arange(20), alphas)
        drawn = {line.get_label(): line.get_ydata() for line in panels[title].lines}
        for loss, weight in weights.items():
            np.testing.assert_allclose(drawn[f"w {loss}"], weight, err_msg=f"{name}, {loss}")
    share = {line.get_label(): line.get_ydata() for line in panels["step-aware mask, erosion 1"].lines}
    ball = [step - 5.5 for step in range(12)]
    inside = np.array([[[x * x + y * y + z * z <= 25 for x in ball] for y in ball] for z in ball])
    core = inside.copy()
    for dz, dy, dx in np.ndindex(3, 3, 3):
        core &= np.roll(inside, (dz - 1, dy - 1, dx - 1), (0, 1, 2))
    np.testing.assert_allclose(share["share of the mask supervised"], [1] * 10 + [core.sum() / inside.sum()] * 10)


def test_picture_is_written_into_a_new_folder(tmp_path):
    main(Config(out=tmp_path / "new" / "weights.png", steps=20))
    assert matplotlib.image.imread(tmp_path / "new" / "weights.png").ndim == 3
