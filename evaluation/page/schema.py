"""What a request may say, and the command and the Python that paint the same bytes."""

import csv
import io
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from diffusion.option_types import ShapeKind
from diffusion.sampling.request import STEPS

MOST_SEED = 2**53 - 1  # a number that JavaScript holds exactly
MOST_LESIONS, MOST_STEPS, MOST_SCALE = 20, 250, 20.0
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Point = tuple[float, float, float]
OWN_TABLE = ("lesions.csv", "brush.nii.gz")  # files of a result that its command reads


class Strict(BaseModel):
    """A body without unknown names and without NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Lesion(Strict):
    """One lesion: its place and diameter, or a brush mask; and its character."""

    center: Point | None = Field(None, description="Voxel index z, y, x of the centre.")
    diameter_mm: float | None = Field(None, gt=0, le=100, description="Of the sphere that has the lesion's volume.")
    mask: str | None = Field(None, pattern="^[0-9a-f]{16}$", description="Name of an uploaded mask, in place of both.")
    seed: Seed = Field(0, description="Of shape and noise.")
    attributes: dict[str, float | str] = Field(default_factory=dict, max_length=20)


class Settings(Strict):
    """What all lesions of a result share, as the options of scripts/inpaint.py."""

    steps: int = Field(default=STEPS, ge=1, le=MOST_STEPS)
    cfg_scale: float = Field(default=1.0, ge=0, le=MOST_SCALE)
    guidance_scale: float = Field(default=1.0, ge=-MOST_SCALE, le=MOST_SCALE)
    hu_scale: float = Field(default=1.0, ge=0, le=MOST_SCALE)
    shape: ShapeKind = "real"
    least_dice: float | None = Field(default=None, ge=0, le=1)


class InpaintBody(Strict):
    """Lesions to paint into the scan of a session, one after the other."""

    session: str
    lesions: list[Lesion] = Field(min_length=1, max_length=MOST_LESIONS)
    settings: Settings = Settings()


class SiteBody(Strict):
    """A place in the lung."""

    diameter_mm: float = Field(gt=0, le=100)
    seed: Seed = 0
    kind: Literal["auto", "free", "pleural", "vessel"] = Field("free", description="As the option --site.")
    lesions: list[Lesion] = Field(default_factory=list, max_length=MOST_LESIONS, description="To keep away from.")


class PhantomBody(Strict):
    """The chest phantom of scripts/demo.py."""

    seed: Annotated[int, Field(ge=0, le=9)] = 1  # each is kept as a file


def check_lesions(lesions: Sequence[Lesion], known: Sequence[str]) -> None:
    """Raise ValueError unless each lesion has a place or a mask, and attributes that the pipeline knows."""
    for number, lesion in enumerate(lesions, 1):
        drawn = lesion.center is not None and lesion.diameter_mm is not None
        placed = lesion.center is not None or lesion.diameter_mm is not None
        if drawn == (lesion.mask is not None) or (placed and not drawn):
            raise ValueError(f"lesion {number}: give center and diameter_mm, or mask")
        unknown = [name for name in lesion.attributes if name not in known]
        if unknown:
            raise ValueError(
                f"lesion {number}: attribute {unknown[0][:40]!r} is unknown to this pipeline; known: {', '.join(known)}"
            )


def inpaint_options(
    body: InpaintBody,
    scan: str | Path,
    folder: Path,
    pipeline: str,
    paired: str | None = None,
    dicom: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The options with which scripts/inpaint.py paints these lesions, those left out that are the default.

    Args:
        body: The request.
        scan: Where the scan is.
        folder: Where `lesions.csv` and `brush.nii.gz` are, for all but one drawn lesion.
        pipeline, paired: As scripts/inpaint.py takes them.
        dicom: Options of a DICOM folder; None for a file.
    """
    options: dict[str, Any] = {"ct": scan, "pipeline": pipeline}
    if dicom is not None:
        options |= {"output_format": "both", **dicom}
    options |= body.settings.model_dump(exclude_defaults=True)
    if body.settings.shape == "learned":
        options["paired"] = paired
    first = body.lesions[0]
    if len(body.lesions) == 1 and first.mask is None:
        options |= {"center": first.center, "diameter_mm": first.diameter_mm, "seed": first.seed}
        return options | ({"attributes": dict(first.attributes)} if first.attributes else {})
    options["lesions"] = folder / OWN_TABLE[0]
    if any(lesion.mask for lesion in body.lesions):
        options["mask"] = folder / OWN_TABLE[1]
    return options


def lesion_table(lesions: Sequence[Lesion]) -> str:
    """The rows as `imaging.lesions.table` reads them; the k-th lesion with a mask has label k in the brush mask."""
    names = sorted({name for lesion in lesions for name in lesion.attributes})
    columns = ["x", "y", "z", "diameter_mm", "seed", "label", *names]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    labels = 0
    for lesion in lesions:
        row: dict[str, Any] = {"seed": lesion.seed, **lesion.attributes}
        if lesion.mask is not None:
            labels += 1
            row["label"] = labels
        else:
            assert lesion.center is not None
            z, y, x = lesion.center
            row |= {"x": x, "y": y, "z": z, "diameter_mm": lesion.diameter_mm}
        table.writerow(row)
    return text.getvalue()


def as_command(options: dict[str, Any], out: str = "outputs/lesion") -> str:
    """The command line of scripts/inpaint.py."""
    words = ["uv", "run", "scripts/inpaint.py"]
    for name, value in (options | {"out": out}).items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, dict):
            for key, one in value.items():
                words += [f"{option}.{key}", str(one)]
        else:
            words += [option, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return shlex.join(words)


def as_python(options: dict[str, Any], out: str = "outputs/lesion") -> str:
    """The same call in Python."""
    lines = [
        f"    {name}={f'Path({str(value)!r})' if name in ('ct', 'out', 'lesions', 'mask') else repr(value)},"
        for name, value in (options | {"out": out}).items()
    ]
    return "\n".join(
        [
            "from pathlib import Path",
            "",
            "from evaluation.inpainting.config import InpaintConfig",
            "from evaluation.inpainting.painting import inpaint",
            "",
            "config = InpaintConfig(",
            *lines,
            ")",
            "inpaint(config)",
        ]
    )
