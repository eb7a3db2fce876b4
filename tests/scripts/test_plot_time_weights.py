import matplotlib.image
import pytest

from scripts.plot_time_weights import Config, main


@pytest.mark.parametrize("target", ["epsilon", "v", "x0"])
def test_picture_of_every_policy_is_written(tmp_path, target):
    out = tmp_path / "new" / "weights.png"
    main(Config(out=out, steps=20, target=target))
    picture = matplotlib.image.imread(out)
    assert picture[..., :3].std() > 0.05  # not blank
