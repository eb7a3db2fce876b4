"""Tables 5.1 and 5.2 of LSDM for crops made from their semantic map, with its own figures below ours."""

from collections.abc import Mapping, Sequence

from evaluation.lesions.pair_comparison import PairedRow
from evaluation.lesions.set_comparison import DistanceRow
from evaluation.lesions.whole_crops import CROP, LEAST_EDGE, LESION, OTHERS, Fidelity
from evaluation.reports.baseline_table import COSTS_READING, Cost, cost_table
from evaluation.reports.lesion_report import NONE, number
from foundation.document import Block, Bullets, Heading, Paragraph, Table

FRECHET, FID = "Fréchet 3D", "FID"
PAIRED = ("SSIM", "MS-SSIM", "LPIPS")
TABLE_5_1 = {  # LSDM (docs/references.md) as printed: FID, SSIM, MS-SSIM, LPIPS of 770 slices
    "SPADE": ("29.86±1.73", "0.42±0.04", "0.82±0.03", "0.09±0.02"),
    "LDM": ("26.05±1.89", "0.28±0.08", "0.83±0.06", "0.13±0.05"),
    "LSDM": ("25.71±1.66", "0.41±0.05", "0.86±0.07", "0.08±0.04"),
    "LSDM with guidance": ("24.49±1.70", "0.34±0.04", "0.83±0.10", "0.09±0.03"),
}
TABLE_5_2 = {  # FID of slices cropped to the nodule
    "SPADE": "49.83±3.41",
    "LDM": "47.62±2.95",
    "LSDM": "42.30±4.02",
    "LSDM + malignancy": "61.77±8.36",
    "LSDM + spiculation": "65.59±6.58",
    "LSDM + lobulation": "67.09±9.94",
    "LSDM + texture": "68.07±7.59",
}
READING = (
    "Each crop is made from its semantic map alone, and measured as far as it lies in its scan. Fréchet distances: "
    "made crops to real crops of other patients, mean over patient-wise splits. In brackets: the ratio to real vs real "
    "in the same splits, with its 95 % interval. 1 is a perfect generator.",
    "Fréchet 3D has the features of a network that was trained on lesions. Of a whole crop it sees the central 32 mm, "
    "pooled over all that is valid.",
    "SSIM, MS-SSIM, LPIPS: against the real crop of the map, mean (standard deviation over crops). "
    f"Only crops with at least {LEAST_EDGE} valid voxels along each axis count. A map does not determine the image, so "
    f"1 is no goal. The row '{OTHERS}' is what chance gives.",
    "+ NAME: the guide steers towards that rating of the real lesion. + guide: towards all that it guides. The "
    "training of the guide is not in the budget.",
    "LSDM: another preparation of LIDC-IDRI, in 2D. Compare its rows with one another, not with ours.",
    COSTS_READING,
)


def whole_crop_blocks(found: Fidelity, costs: Mapping[str, Cost], sets: Sequence[str]) -> list[Block]:
    """The tables of a comparison.

    Args:
        found: Figures of the sets.
        costs: Of the methods that were trained.
        sets: Names in the order of the rows.
    """
    crop, lesion = found.distances[CROP], found.distances[LESION]
    sizes = sorted({row.synthetic_lesions for row in crop})
    paired = sorted({row.pairs for row in found.pairs if row.method in sets})
    first = [[name, *_distances(crop, name), *_paired(found.pairs, name)] for name in sets]
    first.append([OTHERS, *_floors(crop), *_paired(found.pairs, OTHERS)])
    first += [[f"{name} (2D, other data)", NONE, *cells] for name, cells in TABLE_5_1.items()]
    second = [[name, *_distances(lesion, name)] for name in sets]
    second.append([OTHERS, *_floors(lesion)])
    second += [[f"{name} (2D, other data)", NONE, cell] for name, cell in TABLE_5_2.items()]
    return [
        Heading("Crops from their semantic map", 1),
        Paragraph(
            f"{', '.join(map(str, sizes))} crops a set; {', '.join(map(str, paired)) or 'none'} of them in the paired "
            "figures."
        ),
        Heading("Whole crops (LSDM, Table 5.1)"),
        Table(["crops", FRECHET, FID, *PAIRED], first),
        Heading("The lesion in them (LSDM, Table 5.2)"),
        Table(["crops", FRECHET, FID], second),
        *([Bullets(found.left_out)] if found.left_out else []),
        Heading("What the methods took"),
        cost_table(costs),
        Heading("How to read this"),
        Bullets(READING),
    ]


def _distances(rows: Sequence[DistanceRow], name: str) -> list[str]:
    """Value and ratio of the two distances of a set."""
    found = {row.metric: row for row in rows if row.method == name}
    return [_with_ratio(found[metric]) if metric in found else NONE for metric in (FRECHET, FID)]


def _with_ratio(row: DistanceRow) -> str:
    if row.ratio is None:
        return number(row.whole if row.value is None else row.value)
    return f"{number(row.value)} ({row.ratio:.2f}, {row.low:.2f}–{row.high:.2f})"


def _floors(rows: Sequence[DistanceRow]) -> list[str]:
    """Real vs real; all sets have the same masks and so the same splits."""
    floors = {row.metric: row.floor.mean for row in reversed(rows) if row.floor is not None}
    return [number(floors.get(metric)) for metric in (FRECHET, FID)]


def _paired(rows: Sequence[PairedRow], name: str) -> list[str]:
    found = {row.metric: row for row in rows if row.method == name}
    return [f"{found[m].mean:.3f} ({found[m].std:.3f})" if m in found else NONE for m in PAIRED]
