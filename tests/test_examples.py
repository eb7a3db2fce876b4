"""The examples in docstrings: those of the most used functions and classes run, and give what they say."""

import doctest
from importlib import import_module

import pytest

EXAMPLES = (
    "autoencoder.kl.AutoencoderKL3D",
    "diffusion.losses.cooccurrence.cooccurrence_loss",
    "diffusion.losses.gabor.gabor_loss",
    "diffusion.losses.time_weights.SnrWeights",
    "diffusion.unet.SPADEUNet3D",
    "evaluation.statistics.distances.frechet_distance",
    "evaluation.statistics.distances.wasserstein_per_feature",
    "imaging.files.ct.read_ct",
    "imaging.lesions.mask.grown_mask",
    "imaging.lesions.measured_attributes.measured_attributes",
    "imaging.lesions.shapes.lesion_mask_image",
    "imaging.window.to_hu",
    "imaging.window.to_norm",
)


def examples_of(path: str) -> list[doctest.DocTest]:
    """The examples of one object, which see the names of its module."""
    module_name, name = path.rsplit(".", 1)
    module = import_module(module_name)
    finder = doctest.DocTestFinder(recurse=False, exclude_empty=True)
    return finder.find(getattr(module, name), path, module, globs=dict(vars(module)))


@pytest.mark.parametrize("path", EXAMPLES)
def test_the_example_gives_what_it_says(path):
    printed: list[str] = []
    runner = doctest.DocTestRunner()
    for example in examples_of(path):
        runner.run(example, out=printed.append)
    assert runner.summarize(verbose=False).attempted > 0, f"{path} has no example"
    assert not printed, "".join(printed)
