"""Which pictures the report of a sweep gets: each is drawn below `out` and added to the results."""

from collections.abc import Callable, Sequence
from pathlib import Path

from evaluation.guided.requested_sets import RequestedSet
from evaluation.guided.requested_values import CLASS_ATTRIBUTE, HU_ATTRIBUTES, RATING_ATTRIBUTES
from evaluation.lesions.lesion_sets import Lesion
from evaluation.reports.guidance_figures import (
    PLANES,
    Cell,
    draw_grid,
    draw_leakage,
    draw_ratings,
    draw_requested_against_achieved,
    draw_trade_off,
)
from evaluation.reports.guidance_report import GuidanceResults
from foundation.document import Picture

SHOWN = (0.35, 0.65, 0.95)  # places of the shown lesions among all, by volume
ReadSet = Callable[[str, str, float], dict[str, Lesion]]  # attribute, label of the value, scale -> lesions by mask


def draw_curves(results: GuidanceResults, out: Path, sets: Sequence[RequestedSet]) -> None:
    """The trade-off, requested against found, leakage.

    Args:
        results: With all figures; the pictures are added to it.
        out: Folder of the report.
        sets: All of the sweep; unconditional lesions stand for every value of scale 0.
    """
    followed = {}
    for attribute in dict.fromkeys(cost.attribute for cost in results.costs):
        if attribute == CLASS_ATTRIBUTE:
            figures = {row.scale: (row.equal_size, row.equal_low, row.equal_high) for row in results.classes}
        else:
            own = [row for row in results.ranks if row.attribute == attribute and row.rho is not None]
            figures = {row.scale: (row.rho or 0.0, row.low, row.high) for row in own}
        if figures:
            followed[attribute] = figures
    if followed:
        caption = (
            "How well a request is met and what it costs, by scale: the figure with its 95 % interval and the goal "
            "(dotted); the distances' ratios to real vs real; and one over the other, with the scale at each point."
        )
        draw_trade_off(_add(results, out, "What it costs", "trade_off.png", caption), followed, results.costs)
    hu = {name: _by_scale(sets, name) for name in HU_ATTRIBUTES if any(one.attribute == name for one in sets)}
    if hu:
        caption = "HU requested and achieved: every lesion, the mean at each requested value (red), and the identity."
        draw_requested_against_achieved(_add(results, out, "Graded requests", "hu.png", caption), hu)
    ratings = {
        name: {row.scale: row.means for row in results.ranks if row.attribute == name}
        for name in RATING_ATTRIBUTES
        if any(row.attribute == name for row in results.ranks)
    }
    if ratings:
        caption = "Mean of what the image says of the rating requested, at each scale; darker is stronger."
        draw_ratings(_add(results, out, "Graded requests", "ratings.png", caption), ratings)
    if results.leaks:
        caption = "Mean change of all that is judged and measured when a lowest or highest value is requested."
        draw_leakage(_add(results, out, "Leakage", "leakage.png", caption), results.leaks)


def draw_lesions(
    results: GuidanceResults, out: Path, sets: Sequence[RequestedSet], real: Sequence[Lesion], read: ReadSet
) -> None:
    """Benign and malignant by scale; the same in three planes; every other request by value and scale.

    Args:
        results: The pictures are added to it.
        out: Folder of the report.
        sets: All of the sweep.
        real: The real lesions of the sweep's masks.
        read: Gives the lesions of a set.
    """
    ordered = sorted(real, key=lambda lesion: (int(lesion.lesion_mask.sum()), lesion.name))
    shown = list(dict.fromkeys(ordered[round(place * (len(ordered) - 1))].name for place in SHOWN))
    by_name = {lesion.name: lesion for lesion in real}
    for attribute in dict.fromkeys(one.attribute for one in sets):
        values = list(dict.fromkeys(one.value.label for one in sets if one.attribute == attribute))
        scales = sorted({one.scale for one in sets if one.attribute == attribute})
        made = {(value, scale): read(attribute, value, scale) for value in values for scale in scales}
        if attribute == CLASS_ATTRIBUTE:
            _draw_classes(results, out, [by_name[name] for name in shown], values, scales, made)
            continue
        rows: list[list[Cell]] = []
        titles = []
        for number, name in enumerate(shown[1:] or shown, 1):
            for scale in [scale for scale in scales if scale] or scales:
                titles.append(f"lesion {number}, scale {scale:g}")
                rows.append([_cell(made[value, scale], name) for value in values])
        caption = f"{attribute} requested: columns are values, rows scales, all from one noise for each lesion."
        path = _add(results, out, "Pictures", f"{attribute}.png", caption)
        draw_grid(path, rows, titles, [f"{attribute} {value}" for value in values])


def _draw_classes(
    results: GuidanceResults,
    out: Path,
    shown: Sequence[Lesion],
    values: Sequence[str],
    scales: Sequence[float],
    made: dict[tuple[str, float], dict[str, Lesion]],
) -> None:
    columns = ["real", *(f"scale {scale:g}" for scale in scales)]
    rows, titles = [], []
    for number, real in enumerate(shown, 1):
        for value in values:
            first: Cell = (real, 0) if value == values[0] else None
            rows.append([first, *(_cell(made[value, scale], real.name) for scale in scales)])
            titles.append(f"lesion {number}, {value}")
    caption = (
        "Requested as benign (upper row of each lesion) and as malignant (lower), by scale; all from one noise. Axial "
        "centre slices, 32 x 32 mm, -1150 ... 350 HU; the mask is dotted."
    )
    draw_grid(_add(results, out, "Pictures", "benign_malignant.png", caption), rows, titles, columns)
    real = shown[-1]
    rows, titles = [], []
    for value in values:
        for plane, name in enumerate(PLANES):
            first = (real, plane) if value == values[0] else None
            rows.append([first, *(_cell(made[value, scale], real.name, plane) for scale in scales)])
            titles.append(f"{value}, {name}")
    caption = f"The largest shown lesion in three planes, {values[0]} above, {values[-1]} below."
    draw_grid(_add(results, out, "Pictures", "three_planes.png", caption), rows, titles, columns)


def _cell(made: dict[str, Lesion], mask: str, plane: int = 0) -> Cell:
    return (made[mask], plane) if mask in made else None


def _by_scale(sets: Sequence[RequestedSet], attribute: str) -> dict[float, list[RequestedSet]]:
    scales = sorted({one.scale for one in sets if one.attribute == attribute})
    return {s: [one for one in sets if one.attribute == attribute and one.scale == s] for s in scales}


def _add(results: GuidanceResults, out: Path, section: str, file: str, caption: str) -> Path:
    results.pictures.setdefault(section, []).append(Picture(f"pictures/{file}", caption))
    return out / "pictures" / file
