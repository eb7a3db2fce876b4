"""Public names of the packages: there when asked for, and imported no sooner."""

import subprocess
import sys
from importlib import import_module

import pytest

PACKAGES = ("autoencoder", "diffusion", "diffusion.transforms", "guidance")


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_the_class_of_that_name(package):
    module = import_module(package)
    for name in module.__all__:
        public = getattr(module, name)
        assert public.__name__ == name and public.__module__.startswith(f"{package}.")
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'Unknown'"):
        _ = module.Unknown


def test_packages_and_what_configs_take_from_them_import_neither_torch_nor_diffusers():
    settings = (
        "autoencoder.networks.presets, autoencoder.losses.weights, diffusion.option_types, diffusion.sampling.loading"
    )
    code = f"import sys, {', '.join(PACKAGES)}, {settings}; print(sorted({{'torch', 'diffusers'}} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
