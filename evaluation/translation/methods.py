"""The methods that a table of translation compares: trained translators, a linear filter, and nothing at all."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from diffusion.sampling.scan_translation import change_of
from diffusion.translator import Direction, Translator

LINEAR = "linear"  # the folder of a translator without networks
TITLES = {LINEAR: "linear filter", "cyclegan": "CycleGAN", "ddpm": "DDPM", "syndiff": "SynDiff"}  # rows, the last ours
FOLDER = "translator"  # of a training, which holds its translator
Method = Callable[[torch.Tensor, int], torch.Tensor]  # (1, 1, D, H, W), HU, and number of the case -> the same


def load_translators(folder: Path) -> dict[str, Translator]:
    """Those that benchmarks/quality/translation.py left in its folder, by name."""
    found = {name: folder / name / FOLDER for name in TITLES}
    return {name: Translator.from_pretrained(path) for name, path in found.items() if path.exists()}


def methods_of(translators: Mapping[str, Translator], direction: Direction, samples: int) -> dict[str, Method]:
    """Methods by row: no translation, one sample of each translator, and means of several where they differ."""

    def of(translator: Translator, count: int = 1) -> Method:
        return lambda ct_hu, number: ct_hu + change_of(translator, ct_hu, direction, number, count, progress=False)

    found: dict[str, Method] = {"no translation": lambda ct_hu, number: ct_hu}
    for name, title in TITLES.items():
        if name in translators:
            found[title] = of(translators[name])
            if samples > 1 and name in ("ddpm", "syndiff"):
                found[f"{title}, mean of {samples}"] = of(translators[name], samples)
    return found
