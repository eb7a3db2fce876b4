"""What the page says about each attribute: what a request costs, and how well it is met.

The figures are those of docs/guides/character.md, of the shipped pipeline: times of
benchmarks/speed/guidance_overhead.md, agreement of benchmarks/quality/evaluate_guidance.md and shapes.md.
"""

GUIDED = "1.3 × the time, with the guide"
MEASURED = "2.4 × the time"
SHAPES = "hardly in a brushed mask; without one, the request chooses a real shape"
NOTES: dict[str, dict[str, str]] = {
    "malignancy": {
        "label": "Malignancy",
        "cost": GUIDED,
        "met": "a judge tells benign from malignant with AUROC 0.76 (0.64 … 0.88)",
    },
    "texture": {"label": "Texture", "cost": GUIDED, "met": "strength 1 follows a texture well; 2 is a little stronger"},
    "lobulation": {"label": "Lobulation", "cost": GUIDED, "met": SHAPES},
    "spiculation": {"label": "Spiculation", "cost": GUIDED, "met": SHAPES},
    "sphericity": {"label": "Sphericity", "cost": "no more time", "met": SHAPES},
    "mean_hu": {"label": "Mean HU", "cost": MEASURED, "met": "mean error 12 HU"},
    "p10_hu": {"label": "10th percentile, HU", "cost": MEASURED, "met": "not published"},
    "p50_hu": {"label": "Median HU", "cost": MEASURED, "met": "not published"},
    "p90_hu": {"label": "90th percentile, HU", "cost": MEASURED, "met": "mean error 31 HU"},
}
