"""Which pictures a report gets: each function draws its PNGs below `out` and adds them to the results."""

from pathlib import Path

import numpy as np

from evaluation.lesions.features import Features
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.memorisation import Memorisation
from evaluation.lesions.set_comparison import SetMetric
from evaluation.reports.figures import (
    draw_distances,
    draw_features,
    draw_floors,
    draw_gallery,
    draw_nearest,
    draw_tsne,
    tsne_embedding,
)
from evaluation.reports.lesion_report import Results
from evaluation.statistics.resampling import flat
from foundation.document import Picture

GALLERY_ROWS = 6
MAX_COPIES_SHOWN = 12


def draw_distributions(
    results: Results, out: Path, features: dict[str, Features], metrics: list[SetMetric], seed: int
) -> None:
    """Distances in units of their floor, floors by size, the distance of each single feature, and t-SNE."""
    section = "Distances to the real set"
    if any(row.ratio for row in results.distances):
        caption = (
            "Distances in units of real vs real in the same splits, with 95 % intervals; 1 is a perfect generator."
        )
        draw_distances(_add(results, out, section, "distances.png", caption), results.distances)
    if results.floors:
        caption = "Real vs real shrinks with the number of lesions: figures of unequal sizes cannot be compared."
        path = _add(results, out, "Real vs real by number of lesions", "floors.png", caption)
        draw_floors(path, results.floors)
    for metric in [metric for metric in metrics if metric.feature_names]:
        of_sets = {label: flat(kinds[metric.kind].values) for label, kinds in features.items() if metric.kind in kinds}
        if "real" in of_sets and len(of_sets) > 1:
            real = of_sets.pop("real")
            path = _add(results, out, section, f"{metric.kind.lower()}.png", f"{metric.name}, feature by feature.")
            curves = {label: metric.measure(real, values) for label, values in of_sets.items()}
            draw_features(path, metric.feature_names, curves)
    kind = "Inception" if "Inception" in features["real"] else "Nodule net"
    vectors = {label: kinds[kind].values.mean(axis=1) for label, kinds in features.items()}
    if sum(map(len, vectors.values())) >= 5:
        planes = tsne_embedding(list(vectors.values()), seed)
        draw_tsne(_add(results, out, "Pictures", "tsne.png", f"t-SNE of the {kind} features."), planes, list(vectors))


def draw_lesions(
    results: Results, out: Path, sets: dict[str, list[Lesion]], pairs: dict[str, list[tuple[Lesion, Lesion]]]
) -> None:
    """Real lesions, small to large, beside their partners in each set; a set without partners shows its own range."""
    partners = {label: {real.name: made for real, made in found} for label, found in pairs.items()}
    paired = [lesion for lesion in sets["real"] if any(lesion.name in found for found in partners.values())]
    shown = _spread_by_volume(paired or sets["real"])
    columns: list[list[Lesion | None]] = [list(shown)]
    for label in [label for label in sets if label != "real"]:
        if partners.get(label):
            columns.append([partners[label].get(lesion.name) for lesion in shown])
        else:
            own = _spread_by_volume(sets[label])
            columns.append([own[row] if row < len(own) else None for row in range(len(shown))])
    caption = "Axial centre slices, 32 x 32 mm, -1150 ... 350 HU; the mask is dotted."
    draw_gallery(_add(results, out, "Pictures", "gallery.png", caption), columns, list(sets))


def draw_copies(
    results: Results,
    out: Path,
    methods: dict[str, list[Lesion]],
    train: list[Lesion],
    copies: dict[str, Memorisation],
) -> None:
    """Nearest-neighbour distances, and each method's pairs that are closest, suspected copies first."""
    section = "Copies of training lesions"
    for index, (label, found) in enumerate(copies.items()):
        caption = f"{label}: distance to the nearest training lesion, against real test lesions."
        path = _add(results, out, section, f"copies_{index}.png", caption)
        draw_nearest(path, {"real": found.test, label: found.synthetic}, found.threshold)
        closest = np.argsort(found.synthetic, kind="stable")[: max(3, min(len(found.duplicates), MAX_COPIES_SHOWN))]
        columns = [[methods[label][row] for row in closest], [train[found.nearest[row]] for row in closest]]
        caption = f"{label}: its lesions that are closest to a training lesion."
        path = _add(results, out, section, f"copies_{index}_pairs.png", caption)
        draw_gallery(path, columns, [label, "nearest in training"])


def _add(results: Results, out: Path, section: str, file: str, caption: str) -> Path:
    results.pictures.setdefault(section, []).append(Picture(f"pictures/{file}", caption))
    return out / "pictures" / file


def _spread_by_volume(lesions: list[Lesion]) -> list[Lesion]:
    ordered = sorted(lesions, key=lambda lesion: (int(lesion.lesion_mask.sum()), lesion.name))
    rows = np.unique(np.linspace(0, len(ordered) - 1, GALLERY_ROWS).round().astype(int))
    return [ordered[row] for row in rows]
