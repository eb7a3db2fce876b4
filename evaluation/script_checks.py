"""What the evaluation scripts have in common: checks of their settings, named folders, optional networks."""

from collections.abc import Callable
from pathlib import Path

from torch import nn

from evaluation.reports.report import check_report_folder

LEAST = {"repeats": 10, "permutations": 10, "workers": 1}
FETCHED = ("fid", "torchvision")  # weights that torch's hub fetches; everything else but "none" is a file


def check_settings(out: Path, bin_width_hu: float, repeats: int, permutations: int, workers: int) -> None:
    """Refuse, before anything is read, what would fail after long work.

    Args:
        out: Folder of the report.
        bin_width_hu: Grey level of GLCM and GLRLM.
        repeats, permutations: Of splits and tests, at least 10.
        workers: At least 1.
    Raises: ValueError: If a number is too small, or `out` holds something and no earlier report.
    """
    for name, value in (("repeats", repeats), ("permutations", permutations), ("workers", workers)):
        if value < LEAST[name]:
            raise ValueError(f"{name} {value}, expected at least {LEAST[name]}")
    if not bin_width_hu > 0:
        raise ValueError(f"bin_width_hu {bin_width_hu}, expected a positive width such as 25")
    check_report_folder(out)


def named_sources(option: str, value: str, taken: tuple[str, ...] = ()) -> dict[str, str]:
    """`DIR` or `name=DIR,name=DIR` -> name -> folder or repository; one without a name is called by its folder.

    Args:
        option: As on the command line, for the message.
        value: What it was given; the empty string names nothing.
        taken: Names that no source may have.
    Raises: ValueError: If a name comes twice or is taken.
    """
    sources: dict[str, str] = {}
    for part in filter(None, value.split(",")):
        name, equals, source = part.partition("=")
        if not equals:
            name, source = Path(part).name, part
        if name in (*taken, *sources):
            raise ValueError(f"{option} {value}: the name {name!r} is taken; give each a name of its own")
        sources[name] = source
    return sources


def optional_network(
    figure: str, weights: str, load: Callable[[str], nn.Module]
) -> tuple[nn.Module | None, str | None]:
    """A network whose figure is left out if its weights are switched off or cannot be fetched.

    Args:
        figure: What the network is for, as the report names it.
        weights: "none", "fid" or "torchvision" (fetched), or a file.
        load: Weights -> network.
    Returns: The network or None, and a sentence for the report where it is None.
    Raises: ValueError: If weights given as a file cannot be loaded.
    """
    if weights == "none":
        return None, f"{figure}: switched off"
    try:
        return load(weights), None
    except ValueError as error:
        if weights not in FETCHED:
            raise
        return None, f"{figure}: {error}"
