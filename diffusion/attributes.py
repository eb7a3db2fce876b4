"""Character as an input of the denoiser: ratings of readers, and what can be measured in every nodule.

Each attribute is a number on its own scale, and NaN where it is unknown or not requested: that is the null token of
classifier-free guidance (Ho & Salimans 2022), one for each attribute, so that any subset of them can be requested.
"""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusion.option_types import Attributes
from imaging.dataset.augmentation import AUGMENTATION
from imaging.lesions.composition import SOLID_HU


class Scale(NamedTuple):
    """Values of an attribute, in its unit.

    Attributes:
        low, high: Ends of the scale that the denoiser tells apart; what lies outside counts as the end.
        names: Names of some values.
        most: Largest value that can be requested, where that is above `high`: HU of calcified lesions.
    """

    low: float
    high: float
    names: Mapping[str, float] = {}
    most: float | None = None

    @property
    def requestable(self) -> tuple[float, float]:
        """Smallest and largest value that can be requested."""
        return self.low, self.high if self.most is None else self.most


SCALES: dict[str, Scale] = {
    "malignancy": Scale(1, 5, {"benign": 1, "malignant": 5}),  # of the readers' ratings
    "lobulation": Scale(1, 5),
    "spiculation": Scale(1, 5),
    "sphericity": Scale(1, 5, {"linear": 1, "round": 5}),  # chooses the shape of a lesion without a mask
    "texture": Scale(1, 5, {"ground-glass": 1, "part-solid": 3, "solid": 5}),
    "diameter_mm": Scale(2, 60),
    "mean_hu": Scale(-1000, 400, most=1000),  # of the mask's voxels
    "p10_hu": Scale(-1024, 400, most=1000),
    "p50_hu": Scale(-1024, 400, most=1000),
    "p90_hu": Scale(-1000, 1000),
    "zoom": Scale(-0.6, 0.6),  # the last four are AUGMENTATION: how a training image was changed, nobody's request
    "density_shift": Scale(-1, 1),
    "sharpness": Scale(-1, 1),
    "elastic": Scale(0, 1),
}


SOLID_TEXTURE, LEAST_SOLID_HU = 4.5, -700.0  # see `check_compatible`
GROUND_GLASS_TEXTURE, MOST_GROUND_GLASS_HU = 1.5, 0.0


def check_attribute(name: str, value: Any, known: Sequence[str]) -> float:
    """The number that a request for an attribute stands for.

    Args:
        name: Of the attribute.
        value: A number on its scale, or one of its names.
        known: Attributes that there are.
    Raises: ValueError: If the attribute is unknown, or the value no number, not named or out of range.
    """
    if name not in known:
        raise ValueError(f'attribute "{name}" is unknown to this pipeline; known: {", ".join(known) or "none"}')
    scale = SCALES[name]
    if isinstance(value, str) and value in scale.names:
        return float(scale.names[value])
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    low, high = scale.requestable
    if not (isinstance(value, numbers.Real | str) and low <= number <= high):
        named = f", or {', '.join(scale.names)}" if scale.names else ""
        raise ValueError(f"{name}: {value!r}, expected a number from {low:g} to {high:g}{named}")
    return number


def check_compatible(attributes: Mapping[str, float | str]) -> None:
    """Raise ValueError where a requested texture and requested HU exclude each other.

    A solid nodule with the HU of lung is none: no nodule that LIDC's readers rated solid (4.5 or more) has a mean
    below -660 HU in the training patients. Ground glass (1.5 or less) is fainter than soft tissue by definition; its
    highest mean there is -258 HU.

    Args:
        attributes: Of one lesion. Names and values that are none are left to :func:`check_attribute`.
    """

    def given(name: str) -> float:
        try:
            return check_attribute(name, attributes.get(name), (name,))
        except ValueError:
            return math.nan

    texture = given("texture")
    for name in ("mean_hu", "p50_hu"):
        hu = given(name)
        solid = texture >= SOLID_TEXTURE and hu < LEAST_SOLID_HU
        if solid or (texture <= GROUND_GLASS_TEXTURE and hu > MOST_GROUND_GLASS_HU):
            kind, bound = ("solid", "above") if solid else ("ground-glass", "below")
            limit = LEAST_SOLID_HU if solid else MOST_GROUND_GLASS_HU
            raise ValueError(
                f"texture {attributes['texture']} and {name} {hu:g} exclude each other, expected {bound} {limit:g} HU "
                f"of a {kind} nodule; leave out one of the two, or change it"
            )


def requestable(names: Sequence[str]) -> tuple[str, ...]:
    """Those of a denoiser's attributes that a user may request: all but `AUGMENTATION`."""
    return tuple(name for name in names if name not in AUGMENTATION)


def requested_attributes(attributes: Attributes, known: Sequence[str], batch: int) -> Tensor:
    """What is requested as the denoiser takes it, float32 (B, number of `known`), NaN where nothing is.

    Args:
        attributes: Name -> one value for all volumes, or a list with one for each; None asks for nothing.
        known: The denoiser's attributes, in order. Those of `AUGMENTATION` cannot be requested and stay NaN, which
            the embedding reads as a plain image.
        batch: B.
    Raises: ValueError: See :func:`check_attribute`; or if there is another number of values than volumes.
    """
    values = torch.full((batch, len(known)), math.nan)
    names = requestable(known)
    for name, request in attributes.items():
        each = list(request) if isinstance(request, Sequence) and not isinstance(request, str) else [request]
        if len(each) not in (1, batch):
            raise ValueError(f"{name}: {len(each)} values for {batch} volumes; give one, or one per volume")
        requested = [math.nan if value is None else check_attribute(name, value, names) for value in each]
        values[:, list(known).index(name)] = torch.tensor(requested)
    return values


def forgotten(attributes: Tensor, draws: Tensor, none_share: float, names: Sequence[str] = ()) -> Tensor:
    """Attributes of which some are unknown, so that the denoiser learns every subset of them.

    How many are kept is drawn first, evenly from one to all: were each lost independently, one request alone, which is
    what people ask for, would hardly be seen.

    Args:
        attributes: (B, A), NaN where unknown already.
        draws: Uniform in [0, 1), (B, 2 + A).
        none_share: Share of the samples that lose all of them.
        names: Of the attributes. Those of `AUGMENTATION` are never forgotten: an augmented image that is not known to
            be one would teach the denoiser to paint such images.
    """
    draws = draws.to(attributes.device)
    always = torch.tensor([name in AUGMENTATION for name in names] or [False], device=attributes.device)
    known = torch.isfinite(attributes) & ~always
    kept = 1 + (draws[:, 1] * known.sum(1)).floor()
    order = torch.where(known, draws[:, 2:], 2.0).argsort(dim=1).argsort(dim=1)
    keep = known & (order < kept[:, None]) & (draws[:, :1] >= none_share)
    return torch.where(keep | always, attributes, math.nan)


def composition_of(attributes: Tensor, names: Sequence[str]) -> list[tuple[float, float]]:
    """Texture, and the share of the voxels that are solid, of each lesion; NaN where they are not known.

    The share follows from the percentiles of HU: their quantile function, linear between them, at `SOLID_HU`.

    Args:
        attributes: In their units, (B, number of `names`), NaN where unknown.
        names: Of the columns.
    """
    columns = {name: attributes[:, index].tolist() for index, name in enumerate(names)}
    nothing = [math.nan] * len(attributes)
    texture = columns.get("texture", nothing)
    percentiles = [columns.get(name, nothing) for name in ("p10_hu", "p50_hu", "p90_hu")]
    return [(kind, _solid_share(hu)) for kind, *hu in zip(texture, *percentiles, strict=True)]


def _solid_share(percentiles_hu: Sequence[float]) -> float:
    """Share above `SOLID_HU`, from the 10th, 50th and 90th percentile; beyond them it goes on as steeply."""
    low, middle, high = percentiles_hu
    if any(math.isnan(hu) for hu in percentiles_hu):
        return math.nan
    first, second = max(middle - low, 1.0), max(high - middle, 1.0)
    below = 0.5 + 0.4 * (SOLID_HU - middle) / (first if middle > SOLID_HU else second)
    return min(max(1 - below, 0.0), 1.0)


class AttributeEmbedding(nn.Module):
    """Attributes (B, A) -> what is added to the time embedding, (B, channels); zero before training.

    An attribute of `AUGMENTATION` that is unknown is 0, a plain image: so nothing else is painted, with or without
    requests.

    Args:
        names: Keys of `SCALES`.
        channels: Of the time embedding.
        frequencies: Sines and cosines of each attribute, at 1/2, 1, 2, ... periods over its scale. Few: what lies
            between ratings that were seen, mostly whole numbers, is then between them too.
    Raises: ValueError: If a name is unknown.
    """

    def __init__(self, names: Sequence[str], channels: int, frequencies: int = 2) -> None:
        super().__init__()
        unknown = [name for name in names if name not in SCALES]
        if unknown:
            raise ValueError(f"attributes {', '.join(unknown)} are unknown; choose from {', '.join(SCALES)}")
        low, high = (torch.tensor([SCALES[name][end] for name in names], dtype=torch.float32) for end in (0, 1))
        self.low: Tensor
        self.width: Tensor
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("width", high - low, persistent=False)
        self.plain: Tensor
        self.register_buffer("plain", torch.tensor([name in AUGMENTATION for name in names]), persistent=False)
        self.frequencies = frequencies
        last = nn.Linear(channels, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(len(names) * (2 + 2 * frequencies), channels), nn.SiLU(), last)

    def forward(self, attributes: Tensor) -> Tensor:
        """Attributes in their units, NaN where unknown."""
        attributes = torch.where(self.plain & attributes.isnan(), 0.0, attributes)
        known = torch.isfinite(attributes)
        place = torch.where(known, (attributes - self.low) / self.width, 0.0).clamp(0, 1)
        angles = math.pi * place[..., None] * 2.0 ** torch.arange(self.frequencies, device=place.device)
        features = torch.cat([(2 * place - 1)[..., None], angles.sin(), angles.cos()], dim=-1) * known[..., None]
        features = torch.cat([features, known[..., None].to(features)], dim=-1)
        return self.mlp(features.flatten(1).to(next(self.mlp.parameters()).dtype))
