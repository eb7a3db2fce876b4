import subprocess
import sys

import numpy as np
import pytest
import torch

from imaging.window import to_hu, to_norm


def test_default_window_maps_its_ends_and_centre():
    np.testing.assert_allclose(to_norm(np.array([-1150, -400, 350], np.int16)), [-1, 0, 1])


def test_values_outside_the_window_are_clipped():
    np.testing.assert_array_equal(to_norm(np.array([-3024.0, 3071.0])), [-1, 1])


def test_inverse_returns_the_hounsfield_units_inside_the_window():
    ct_hu = np.linspace(-1100, 300, 2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_allclose(to_hu(to_norm(ct_hu, 1600, -300), 1600, -300), ct_hu, atol=1e-3)


def test_torch_and_numpy_agree_and_keep_library_shape_and_type():
    ct_hu = np.random.default_rng(0).integers(-2000, 1500, (2, 3, 4)).astype(np.int16)
    ct_norm = to_norm(torch.from_numpy(ct_hu), 1000, 40)
    assert isinstance(ct_norm, torch.Tensor) and ct_norm.dtype == torch.float32
    assert to_norm(ct_hu, 1000, 40).dtype == np.float32
    np.testing.assert_allclose(ct_norm.numpy(), to_norm(ct_hu, 1000, 40), rtol=1e-6)
    assert to_norm(torch.zeros(2, 3, dtype=torch.float64)).dtype == torch.float64


def test_gradient_passes_through_the_inverse_outside_the_window():
    ct_norm = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
    to_hu(ct_norm).sum().backward()
    torch.testing.assert_close(ct_norm.grad, torch.full((3,), 750.0))


@pytest.mark.parametrize("function", [to_norm, to_hu])
def test_a_width_that_is_not_positive_is_refused(function):
    with pytest.raises(ValueError, match="width 0 HU, expected a positive"):
        function(np.zeros(3), width=0)


def test_module_does_not_import_torch():
    code = "import sys, imaging.window; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
