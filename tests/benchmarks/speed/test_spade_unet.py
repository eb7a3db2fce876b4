"""The comparison with MONAI's SPADE U-Net, on small latents."""

import pytest

from benchmarks.speed import spade_unet


@pytest.mark.slow
def test_monais_networks_have_as_many_parameters_and_all_take_the_same_steps(capsys):
    spade_unet.main(spade_unet.Config(cells=8, batch=1, steps=2, repeats=1, threads=1))
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0].split()[1] for row in rows] == ["SPADEUNet3D", "MONAI", "MONAI"]
    ours, *others = (int(row[1].replace(",", "")) for row in rows)
    assert all(abs(count / ours - 1) <= spade_unet.PARAMETER_TOLERANCE for count in others)
    assert rows[0][3] == "1.00" and all(float(row[3]) > 0 for row in rows)
