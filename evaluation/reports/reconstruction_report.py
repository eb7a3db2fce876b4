"""The report on autoencoders: its results, tables, pictures and how to read them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.autoencoders.power_spectrum import BANDS, SHELLS, band_edges_per_mm
from evaluation.autoencoders.reconstruction import Spacing
from evaluation.autoencoders.table import ALL, DIAMETERS, CropRow, SummaryRow, mean_curves
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.pair_comparison import PairedRow
from evaluation.lesions.set_comparison import DistanceRow
from evaluation.reports.figures import draw_power_ratios
from evaluation.reports.lesion_report import NONE, distance_table, number, pair_table
from evaluation.reports.report import report_document, save_report
from evaluation.reports.slices import save_slices
from foundation.document import Block, Paragraph, Picture, Table
from imaging.window import to_norm

TITLE = "Evaluation of autoencoders"
UNCHANGED = "unchanged"
REGIONS = ("crop", "lung", "lesion")
PLACES = {"crop": "whole crop", "noise": "homogeneous cube"}
READING = (
    "Unchanged: the windowed crop against itself, the anchor. Autoencoder: the decoded mode of its posterior, clamped "
    "to the window. Blur: for each crop the Gaussian whose PSNR equals that crop's reconstruction (valid voxels only, "
    "normalised convolution); an autoencoder that loses nothing but sharpness is no better than it.",
    "HU errors are reconstruction − original inside the model's window, padding left out. What lies outside the window "
    "is clipped in the original, too; the table of clipped voxels says how much that is. Bias: signed mean. MAE: mean "
    "absolute error. Each crop's value counts once, so a mean is over lesions, not voxels.",
    "Lung: imaging/semantic_map.py on the crop, with its vessels and airways and without the lesion; crops without "
    "lung do not count. Lesion: the lesion mask.",
    "Brackets: 95 % intervals by patient-wise bootstrap, too narrow for groups of a few crops. Diameters: a border "
    "belongs to the smaller group.",
    "Power ratio: power of the version / power of the original, with a 3D Hann window on the mean-removed box; 1 keeps "
    "the texture, 0 smooths it away, more than 1 adds some. Whole crop: only crops whose valid voxels fill a box. "
    "Homogeneous cube: the 16-voxel cube outside the lesion with the least structure coarser than 2 mm and no clipped "
    "voxel, so what it holds is mostly noise. The mean over crops is geometric. The ratio does not ask whether the "
    "texture is the same one.",
    "Texture distances: features of the lesion alone, lung window (-1150 ... 350 HU). The version's lesions of half of "
    "the patients against the originals of the other half, beside originals against originals in the same splits: a "
    "lossless version has a ratio of 1. p-values: original and version change roles at random, patient by patient; "
    "they find any systematic change, however small, so read the ratio and the blur as the scale. Texture error of the "
    "paired figures: mean over features of |version − original| / spread over the originals.",
    "Paired SSIM and MS-SSIM: averaged in the lesion only. LPIPS: the three slices of 32 mm through the lesion.",
)


@dataclass(frozen=True)
class AutoencoderSummary:
    """One autoencoder that was judged; `kind` is its class, `parameters` their number."""

    name: str
    source: str
    kind: str  # class
    factor: int
    latent_channels: int
    parameters: int


@dataclass
class Results:
    """Everything the report prints; `spacing_mm` is None where the crops' spacings differ."""

    settings: dict[str, Any]
    window_hu: tuple[float, float]  # width, level
    crop_shape: tuple[int, int, int]
    spacing_mm: Spacing | None
    ms_ssim_scales: int
    patients: int
    autoencoders: list[AutoencoderSummary]
    test_openings: str | None = None  # from `evaluation.lesions.openings`
    rows: list[CropRow] = field(default_factory=list)
    summary: list[SummaryRow] = field(default_factory=list)
    distances: list[DistanceRow] = field(default_factory=list)
    pairs: list[PairedRow] = field(default_factory=list)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)  # section -> pictures
    left_out: list[str] = field(default_factory=list)


def write_report(results: Results, out: Path) -> None:
    """Write report.json, report.md and report.html into `out`, where the pictures lie already.

    In the JSON an infinite figure (the PSNR of equal images) is null.
    """
    content = dataclasses.asdict(results)
    for row in content["rows"]:
        row["figures"] = {name: value if np.isfinite(value) else None for name, value in row["figures"].items()}
    save_report(out, TITLE, report_blocks(results), content)


def report_blocks(results: Results) -> list[Block]:
    """The report's sections; those without content are left out, except the list of what is missing."""
    table = _Cells(results.summary)
    sections: dict[str, list[Block]] = {
        "Image quality": [_quality_table(results, table)],
        "HU errors by lesion diameter": [_error_table(table)],
        "Voxels outside the window": [_outside_table(table)],
        "Power spectrum ratio": [_power_table(results, table, place) for place in PLACES],
        "Texture distances of the lesions": [distance_table(results.distances)] if results.distances else [],
        "Paired figures of the lesions": [pair_table(results.pairs)] if results.pairs else [],
        "Pictures": [],
    }
    for section, pictures in results.pictures.items():
        sections[section] += pictures
    opening: list[Block] = [Paragraph(_data_sentence(results)), _autoencoder_table(results)]
    if results.test_openings:
        opening.append(Paragraph(results.test_openings))
    return report_document(TITLE, opening, sections, results.left_out, READING, results.settings)


class _Cells:
    """The summary by version, group and figure, as printed."""

    def __init__(self, summary: Sequence[SummaryRow]) -> None:
        self.found = {(row.version, row.group, row.figure): row for row in summary}
        self.versions = list(dict.fromkeys(row.version for row in summary))

    def crops(self, version: str, group: str, figure: str = "psnr_db") -> int:
        row = self.found.get((version, group, figure))
        return row.crops if row else 0

    def cell(self, version: str, group: str, figure: str, scale: float = 1.0) -> str:
        """ "mean [low … high]", and "n =" where fewer crops have the figure than the group has."""
        row = self.found.get((version, group, figure))
        if row is None:
            return NONE
        if row.mean is None or row.low is None or row.high is None:
            return "∞"
        text = number(scale * row.mean)
        if row.high > row.low:
            text += f" [{number(scale * row.low)} … {number(scale * row.high)}]"
        return text + (f", n = {row.crops}" if row.crops < self.crops(version, group) else "")


def _data_sentence(results: Results) -> str:
    width, level = results.window_hu
    shape = " x ".join(map(str, results.crop_shape))
    spacing = "of several spacings"
    if results.spacing_mm:
        spacing = "at " + " x ".join(f"{s:g}" for s in results.spacing_mm) + " mm (z, y, x)"
    crops = sum(row.version == UNCHANGED for row in results.rows)
    return (
        f"{crops} crops of {results.patients} patients, split {results.settings['split']} of "
        f"{results.settings['data']}, {shape} voxels {spacing}; window {level - width / 2:g} ... "
        f"{level + width / 2:g} HU."
    )


def _autoencoder_table(results: Results) -> Table:
    rows = []
    for one in results.autoencoders:
        latent = f"{one.factor**3 / one.latent_channels:.3g}"
        cells = [one.name, one.source, one.kind, str(one.factor), str(one.latent_channels), latent]
        rows.append([*cells, f"{one.parameters / 1e6:.3g}"])
    header = ["autoencoder", "folder", "class", "factor", "latent channels", "voxels per latent value"]
    return Table([*header, "parameters [10⁶]"], rows)


def _quality_table(results: Results, table: _Cells) -> Table:
    figures = {
        "PSNR [dB]": "psnr_db",
        "PSNR, lesion [dB]": "psnr_lesion_db",
        "SSIM": "ssim",
        f"MS-SSIM ({results.ms_ssim_scales} scales)": "ms_ssim",
        "blur σ [mm]": "sigma_mm",
    }
    rows = [
        [version, str(table.crops(version, ALL)), *(table.cell(version, ALL, name) for name in figures.values())]
        for version in table.versions
    ]
    return Table(["version", "crops", *figures], rows)


def _error_table(table: _Cells) -> Table:
    header = [f"{region} {figure} [HU]" for region in REGIONS for figure in ("bias", "MAE")]
    rows = []
    for group in (ALL, *DIAMETERS):
        for version in [version for version in table.versions if table.crops(version, group)]:
            names = [f"hu_{figure}_{region}" for region in REGIONS for figure in ("bias", "mae")]
            cells = [table.cell(version, group, name) for name in names]
            rows.append([group, version, str(table.crops(version, group)), *cells])
    return Table(["diameter", "version", "crops", *header], rows)


def _outside_table(table: _Cells) -> Table:
    groups = [group for group in (ALL, *DIAMETERS) if table.crops(UNCHANGED, group)]
    rows = [
        [
            group,
            str(table.crops(UNCHANGED, group)),
            *(table.cell(UNCHANGED, group, f"outside_window_{r}", 100) for r in REGIONS),
        ]
        for group in groups
    ]
    return Table(["diameter", "crops", *(f"{region} [%]" for region in REGIONS)], rows)


def _power_table(results: Results, table: _Cells, place: str) -> Table:
    if results.spacing_mm:
        edges = [f"{edge:.3g}" for edge in band_edges_per_mm(results.spacing_mm)]
        unit = "/mm"
    else:
        edges, unit = [f"{edge:g}" for edge in (0.0, *(high for _, high in BANDS.values()))], " Nyquist"
    titles = [f"{band}, {low}-{high}{unit}" for band, low, high in zip(BANDS, edges, edges[1:], strict=False)]
    rows = []
    for version in table.versions:
        names = [f"{place}_power_ratio_{band}" for band in BANDS]
        crops = str(table.crops(version, ALL, names[0]))
        rows.append([version, crops, *(table.cell(version, ALL, name).split(", n =")[0] for name in names)])
    return Table([PLACES[place], "crops", *titles], rows)


def draw_pictures(results: Results, out: Path, lesions: dict[str, list[Lesion]]) -> None:
    """The power ratios, and for each autoencoder its worst, median and best crop by PSNR in three planes.

    Args:
        results: Its rows are drawn, and the pictures added to it.
        out: Of the report; PNGs go to `out/pictures`.
        lesions: Version -> crops.
    """
    curves = {title: mean_curves(results.rows, place) for place, title in PLACES.items()}
    nyquist = 0.5 / max(results.spacing_mm) if results.spacing_mm else 1.0
    label = "spatial frequency [1/mm]" if results.spacing_mm else "spatial frequency [Nyquist frequency]"
    frequency = nyquist * (np.arange(SHELLS) + 0.5) / SHELLS
    if any(curves.values()):
        path = out / "pictures" / "power_ratio.png"
        draw_power_ratios(path, frequency, {title: found for title, found in curves.items() if found}, label)
        caption = "Power of each version over the original's by spatial frequency, geometric mean; 1 keeps the texture."
        results.pictures["Power spectrum ratio"] = [Picture("pictures/power_ratio.png", caption)]
    by_name = {version: {lesion.name: lesion for lesion in found} for version, found in lesions.items()}
    for index, one in enumerate(results.autoencoders):
        version, blur = f"autoencoder {one.name}", f"blur of the same PSNR as {one.name}"
        ranked = sorted((row for row in results.rows if row.version == version), key=lambda row: row.figures["psnr_db"])
        chosen = {"worst": ranked[0], "median": ranked[len(ranked) // 2], "best": ranked[-1]}
        for rank, row in chosen.items():
            columns = {"CT": by_name[UNCHANGED][row.nodule_id], one.name: by_name[version][row.nodule_id]}
            if row.nodule_id in by_name.get(blur, {}):
                columns["blur"] = by_name[blur][row.nodule_id]
            file = f"pictures/{rank}_{index}.png"
            _draw_planes(out / file, columns)
            caption = (
                f"{one.name}, {rank} of {len(ranked)} crops: {row.nodule_id}, {row.diameter_mm:.3g} mm, "
                f"{number(row.figures['psnr_db'])} dB. Axial, coronal and sagittal plane through the middle, -1150 ... "
                "350 HU; differences to the CT from -300 (blue) to 300 HU (red)."
            )
            results.pictures.setdefault("Pictures", []).append(Picture(file, caption))


def _draw_planes(path: Path, columns: dict[str, Lesion]) -> None:
    volumes = {title: to_norm(lesion.ct_hu) for title, lesion in columns.items()}
    ct = volumes["CT"]
    shown = volumes | {f"{title}, difference": made - ct for title, made in volumes.items() if title != "CT"}
    rows = []
    for axis in range(3):
        planes = [np.moveaxis(volume, axis, 0) for volume in shown.values()]
        rows.append([plane if axis == 0 else plane[:, ::-1] for plane in planes])  # the head is up
    save_slices(path, rows, list(shown))
