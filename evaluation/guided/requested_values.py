"""What lesions are requested: the values of each attribute that are tried, and the kinds of guidance that ask."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["cfg", "classifier", "both", "hu"]
SWEPT: Mapping[Kind, tuple[str, ...]] = {
    "cfg": ("cfg_scale",),
    "classifier": ("guidance_scale",),
    "both": ("cfg_scale", "guidance_scale"),
    "hu": ("hu_scale",),
}
CLASS_ATTRIBUTE = "malignancy"
RATING_ATTRIBUTES = ("spiculation", "lobulation", "texture")
HU_ATTRIBUTES = ("mean_hu", "p10_hu", "p50_hu", "p90_hu")
REQUESTABLE = (CLASS_ATTRIBUTE, *RATING_ATTRIBUTES, *HU_ATTRIBUTES)
RATINGS = (1.0, 2.0, 3.0, 4.0, 5.0)  # of attributes whose scale has no names


class RequestedValue(NamedTuple):
    """One value of an attribute: its name or number as text, and as the number it stands for on the scale."""

    label: str
    number: float

    @property
    def request(self) -> str | float:
        """What a pipeline is requested: the name where there is one."""
        try:
            float(self.label)
        except ValueError:
            return self.label
        return self.number


def requested_values(attribute: str, hu_quantiles: Mapping[str, Sequence[float]]) -> list[RequestedValue]:
    """What is tried of an attribute, from low to high.

    Args:
        attribute: One of `REQUESTABLE`.
        hu_quantiles: HU attribute -> HU, quantiles of real lesions.
    Raises: ValueError: If the attribute is unknown; a lesion's diameter, for one, is what its mask says.
    """
    if attribute not in REQUESTABLE:
        raise ValueError(f"request {attribute!r}, expected some of {', '.join(REQUESTABLE)}")
    if attribute in HU_ATTRIBUTES:
        return [RequestedValue(f"{hu:g}", float(hu)) for hu in dict.fromkeys(sorted(hu_quantiles[attribute]))]
    from diffusion.attributes import SCALES  # imports torch, which a script's options must not

    names = SCALES[attribute].names
    if names:
        return [RequestedValue(name, float(number)) for name, number in sorted(names.items(), key=lambda item: item[1])]
    return [RequestedValue(f"{rating:g}", rating) for rating in RATINGS]


def strengths(kind: Kind, scale: float, own: Mapping[str, float]) -> dict[str, float]:
    """The scales of a call: what is swept has `scale`, what is not keeps its own.

    Args:
        kind: Which is swept: classifier-free guidance, the classifiers' gradient, both, or measured HU.
        scale: Of the sweep.
        own: `cfg_scale`, `guidance_scale` and `hu_scale` where they are not swept; all 0 asks for nothing.
    """
    return {**own, **dict.fromkeys(SWEPT[kind], scale)}


def known_requests(
    requests: Sequence[str], kind: Kind, of_unet: Sequence[str], of_guide: Sequence[str], refused: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Which requests a pipeline can be requested by this kind of guidance.

    Args:
        requests: Requested.
        kind: "cfg" asks the U-Net, "classifier" the guide, "both" either, "hu" for what is measured.
        of_unet, of_guide: What each knows.
        refused: Attributes that the guide knows and does not guide -> the reason.
    Returns: The known ones in order, and a sentence for each other one.
    Raises: ValueError: If none is known, saying what is.
    """
    guided = [name for name in of_guide if name not in refused]
    measured = [name for name in of_unet if name in HU_ATTRIBUTES]
    able = {"cfg": list(of_unet), "classifier": guided, "both": [*of_unet, *guided], "hu": measured}[kind]
    known, notes = [], []
    for name in requests:
        if name in able:
            known.append(name)
        elif kind == "classifier" and name in refused:
            notes.append(f"{name}: not requested, the guide refuses it ({refused[name]})")
        else:
            notes.append(f"{name}: not requested, this pipeline does not know it by guidance of kind {kind!r}")
    if not known:
        raise ValueError(
            f"requests {', '.join(requests)}: this pipeline knows none of them by guidance of kind {kind!r}; its U-Net "
            f"knows {', '.join(of_unet) or 'none'}, its guide {', '.join(guided) or 'none'}"
        )
    return known, notes
