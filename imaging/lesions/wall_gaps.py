"""How far from the border of the lung real nodules lie: 42 % touch it, the large ones more often than the small.

Counted by `benchmarks/choices/wall_gaps.py` in 120 nodules of 120 patients of LIDC-IDRI (diameters 5.6 to 31 mm). The
border is that of `imaging.semantic_map.lung_mask`: chest wall, mediastinum and hilum.
"""

import numpy as np

GAPS_MM = (-np.inf, 1.0, 3.0, 6.0, 10.0, np.inf)  # edges of the classes: lung between a nodule's surface and the wall
SMALL_MM = 10.0
SMALL, LARGE = (16, 8, 9, 10, 12), (35, 4, 7, 6, 13)  # real nodules in each class, of diameters below 10 mm and others
TOUCHING_MM = GAPS_MM[1]  # gap up to which a nodule is one at the wall
DEEPEST = 0.4  # of a radius: how far into the wall the sphere of a nodule that touches it may reach; the rest is cut


def drawn_gaps(gap_mm: np.ndarray, diameter_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Order places so that their gaps to the wall are those of real nodules.

    Args:
        gap_mm: Of each place, (N,).
        diameter_mm: Of the lesion.
        rng: Draws.
    Returns: int (N,), a permutation of the places. The first is of a class that is drawn by the counts above, among the
        classes that have a place, and any place of the class is as likely as any other. Those that follow are drawn
        likewise from what is left.
    """
    classes = np.digitize(gap_mm, GAPS_MM[1:-1])
    shares = np.array(SMALL if diameter_mm < SMALL_MM else LARGE, float)
    # Efraimidis & Spirakis 2006, "Weighted random sampling with a reservoir": the order of exponential keys
    counts = np.maximum(np.bincount(classes, minlength=len(shares)), 1)
    return np.argsort(rng.exponential(size=len(classes)) * (counts / shares)[classes])
