"""A scan in tiles: the tiles cannot be told from the result, and what is no tissue stays."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from tiny_models import randomised

from diffusion.sampling.scan_translation import change_of, translate_scan
from diffusion.translator import Translator


def translator(process="syndiff", calls=4, **settings):
    torch.manual_seed(0)
    model = randomised(Translator(process, calls, channels=4, blocks=1, **settings))
    model.filter_a_to_b[7, 7, 6:9] = torch.tensor([0.2, 0.6, 0.2])
    return model


def crop(shape=(1, 1, 21, 40, 26)):
    return 900 * torch.rand(shape, generator=torch.Generator().manual_seed(3)) - 900


@pytest.mark.parametrize(("process", "calls"), [("syndiff", 4), ("cyclegan", 1)])
def test_tiles_of_any_size_give_the_same_scan(process, calls):
    """Neighbouring tiles share the noise and see all they need, so there is no seam at all."""
    model, ct_hu = translator(process, calls), crop()
    whole, *tiled = [change_of(model, ct_hu, "a_to_b", 5, tile=tile, progress=False) for tile in (64, 8, 14)]
    assert whole.shape == ct_hu.shape and whole.std() > 1
    for one in tiled:
        assert torch.allclose(one, whole, atol=2e-3)  # HU
    other = change_of(model, ct_hu, "a_to_b", 6, tile=64, progress=False)
    assert torch.allclose(other, whole) == (process == "cyclegan")  # another seed is another noise


def test_several_samples_are_averaged():
    model, ct_hu = translator(), crop((1, 1, 12, 12, 12))
    many = change_of(model, ct_hu, "a_to_b", 0, samples=3, progress=False)
    single = [change_of(model, ct_hu, "a_to_b", 1_000_003 * sample, progress=False) for sample in range(3)]
    assert torch.allclose(many, torch.stack(single).mean(0), atol=1e-3)


def scan(spacing_xyz=(1.0, 1.0, 1.0), dtype=np.int16):
    ct_hu = crop()[0, 0].numpy().astype(dtype)
    ct_hu[:, :4] = -2000  # a scanner's padding
    image = sitk.GetImageFromArray(ct_hu)
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((-12.5, 40, 7))
    return image


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.8, 2.5)])
def test_a_scan_keeps_its_grid_its_type_and_its_padding(spacing):
    image = scan(spacing)
    made = translate_scan(translator(), image, "a_to_b", progress=False)
    assert made.GetSize() == image.GetSize() and made.GetSpacing() == pytest.approx(spacing)
    assert made.GetOrigin() == image.GetOrigin() and made.GetPixelID() == image.GetPixelID()
    before, after = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(made)
    assert (after[:, :4] == -2000).all() and (after[:, 4:] != before[:, 4:]).mean() > 0.5


def test_on_the_translators_own_grid_a_scan_is_translated_voxel_by_voxel():
    ct_hu = crop((1, 1, 42, 44, 43))
    image = sitk.GetImageFromArray(ct_hu[0, 0].numpy())
    model = translator("cyclegan", 1)
    made = sitk.GetArrayFromImage(translate_scan(model, image, "a_to_b", progress=False))
    expected = (ct_hu + change_of(model, ct_hu, "a_to_b", progress=False))[0, 0].numpy()
    inner = 3 * (slice(20, -20),)  # the grid that covers a scan is a voxel longer
    assert np.allclose(made[inner], np.maximum(expected[inner], -1024), atol=0.01)


def test_options_out_of_range_and_a_scan_of_nothing_are_refused():
    with pytest.raises(ValueError, match="tile 7: expected an even number of voxels from 2"):
        change_of(translator(), crop(), "a_to_b", tile=7)
    with pytest.raises(ValueError, match="samples 0: expected at least 1"):
        change_of(translator(), crop(), "a_to_b", samples=0)
    with pytest.raises(ValueError, match="no voxel from -1024 HU on"):
        translate_scan(translator(), sitk.Image(8, 8, 8, sitk.sitkInt16) - 3000, "a_to_b")
