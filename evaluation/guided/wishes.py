"""What lesions are asked for: the values of each attribute that are tried, and the kinds of guidance that ask."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["cfg", "classifier", "both", "hu"]
SWEPT: Mapping[Kind, tuple[str, ...]] = {
    "cfg": ("cfg_scale",),
    "classifier": ("guidance_scale",),
    "both": ("cfg_scale", "guidance_scale"),
    "hu": ("hu_scale",),
}
CLASS_WISH = "malignancy"
RATING_WISHES = ("spiculation", "lobulation", "texture")
HU_WISHES = ("mean_hu", "p10_hu", "p50_hu", "p90_hu")
WISHES = (CLASS_WISH, *RATING_WISHES, *HU_WISHES)
RATINGS = (1.0, 2.0, 3.0, 4.0, 5.0)  # of attributes whose scale has no names


class AskedValue(NamedTuple):
    """One value of an attribute: its name or number as text, and as the number it stands for on the scale."""

    label: str
    number: float

    @property
    def wish(self) -> str | float:
        """What a pipeline is asked: the name where there is one."""
        try:
            float(self.label)
        except ValueError:
            return self.label
        return self.number


def asked_values(attribute: str, hu_quantiles: Mapping[str, Sequence[float]]) -> list[AskedValue]:
    """What is tried of an attribute, from low to high.

    Args:
        attribute: One of `WISHES`.
        hu_quantiles: HU attribute -> HU, quantiles of real lesions.
    Raises: ValueError: If the attribute is unknown; a lesion's diameter, for one, is what its mask says.
    """
    if attribute not in WISHES:
        raise ValueError(f"wish {attribute!r}, expected some of {', '.join(WISHES)}")
    if attribute in HU_WISHES:
        return [AskedValue(f"{hu:g}", float(hu)) for hu in dict.fromkeys(sorted(hu_quantiles[attribute]))]
    from diffusion.attributes import SCALES  # imports torch, which a script's options must not

    names = SCALES[attribute].names
    if names:
        return [AskedValue(name, float(number)) for name, number in sorted(names.items(), key=lambda item: item[1])]
    return [AskedValue(f"{rating:g}", rating) for rating in RATINGS]


def strengths(kind: Kind, scale: float, own: Mapping[str, float]) -> dict[str, float]:
    """The scales of a call: what is swept has `scale`, what is not keeps its own.

    Args:
        kind: Which is swept: classifier-free guidance, the classifiers' gradient, both, or measured HU.
        scale: Of the sweep.
        own: `cfg_scale`, `guidance_scale` and `hu_scale` where they are not swept; all 0 asks for nothing.
    """
    return {**own, **dict.fromkeys(SWEPT[kind], scale)}


def known_wishes(
    wishes: Sequence[str], kind: Kind, of_unet: Sequence[str], of_guide: Sequence[str], refused: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Which wishes a pipeline can be asked by this kind of guidance.

    Args:
        wishes: Asked for.
        kind: "cfg" asks the U-Net, "classifier" the guide, "both" either, "hu" for what is measured.
        of_unet, of_guide: What each knows.
        refused: Attributes that the guide knows and does not guide -> the reason.
    Returns: The known ones in order, and a sentence for each other one.
    Raises: ValueError: If none is known, saying what is.
    """
    guided = [name for name in of_guide if name not in refused]
    measured = [name for name in of_unet if name in HU_WISHES]
    able = {"cfg": list(of_unet), "classifier": guided, "both": [*of_unet, *guided], "hu": measured}[kind]
    known, notes = [], []
    for name in wishes:
        if name in able:
            known.append(name)
        elif kind == "classifier" and name in refused:
            notes.append(f"{name}: not asked for, the guide refuses it ({refused[name]})")
        else:
            notes.append(f"{name}: not asked for, this pipeline does not know it by guidance of kind {kind!r}")
    if not known:
        raise ValueError(
            f"wishes {', '.join(wishes)}: this pipeline knows none of them by guidance of kind {kind!r}; its U-Net "
            f"knows {', '.join(of_unet) or 'none'}, its guide {', '.join(guided) or 'none'}"
        )
    return known, notes
