"""What lesions are asked for: the values of each attribute that are tried, and the two kinds of guidance that ask."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

Kind = Literal["cfg", "classifier", "both"]
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


def strengths(kind: Kind, scale: float, guidance_scale: float, cfg_scale: float) -> tuple[float, float]:
    """(guidance_scale, cfg_scale) of a call whose swept scale is `scale`; what is not swept keeps its own.

    Args:
        kind: Which of the two is swept, or "both".
        scale: Of the sweep.
        guidance_scale: Of the classifiers' gradient where it is not swept.
        cfg_scale: Of classifier-free guidance where it is not swept; 0 asks the U-Net for nothing.
    """
    return (guidance_scale if kind == "cfg" else scale), (cfg_scale if kind == "classifier" else scale)


def known_wishes(
    wishes: Sequence[str], kind: Kind, of_unet: Sequence[str], of_guide: Sequence[str], refused: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """Which wishes a pipeline can be asked by this kind of guidance.

    Args:
        wishes: Asked for.
        kind: "cfg" asks the U-Net, "classifier" the guide, "both" either.
        of_unet, of_guide: What each knows.
        refused: Attributes that the guide knows and does not guide -> the reason.
    Returns: The known ones in order, and a sentence for each other one.
    Raises: ValueError: If none is known, saying what is.
    """
    guided = [name for name in of_guide if name not in refused]
    able = {"cfg": list(of_unet), "classifier": guided, "both": [*of_unet, *guided]}[kind]
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
