"""Table 1 of the texture-loss proposal with our methods in it, and what each method cost.

The figures come from the report.json of an evaluation.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from evaluation.reports.lesion_report import NONE, number
from foundation.document import Block, Bullets, Heading, Paragraph, Table

DISTANCES = ("GLCM WD", "GLRLM WD", "Gabor WD", "FID", "Fréchet 3D")
STANDARDISED = ("GLCM WD", "GLRLM WD", "Gabor WD", "Spectrum WD")  # each feature by its spread over real lesions
MORE_DISTANCES = (*(f"{name}, standardised" for name in STANDARDISED), "Coverage WD", "Seam WD", "Mean HU WD")
COSTS = ("training steps", "minutes of training", "network calls", "seconds a lesion")
MSE, MSE_UNIT = "MSE", 1e-2
PROPOSAL_TABLE = {  # the texture-loss proposal (docs/references.md) as printed: mean (std); it has no 3D network
    "DDPM": ("0.016 (0.012)", "6.54 (14.49)", "0.00058 (0.00096)", "22.40", NONE, "0.028 (0.047)"),
    "SNR": ("0.017 (0.012)", "6.83 (14.88)", "0.00063 (0.00085)", "27.67", NONE, "0.023 (0.040)"),
    "FiLM": ("0.017 (0.013)", "6.03 (13.14)", "0.00061 (0.0010)", "22.20", NONE, "0.028 (0.048)"),
    "Uncertainty": ("0.020 (0.018)", "6.93 (15.27)", "0.00077 (0.0013)", "25.56", NONE, "0.035 (0.060)"),
    "Step-aware": ("0.017 (0.012)", "6.39 (13.84)", "0.00061 (0.00084)", "25.09", NONE, "0.026 (0.042)"),
    "GAN": ("0.14 (0.17)", "54.48 (122.55)", "0.0035 (0.0029)", "100.88", NONE, "792 (2355)"),
}
COSTS_READING = (
    "Training: time of the optimisation steps, on the clock or with --cpu-clock of the CPU, data loading included; "
    "evaluations, checkpoints and stage 1 not. Seconds a lesion: one lesion at a time, on the machine that evaluated "
    "it."
)
READING = (
    "Proposal: Table 1 of the unpublished proposal on texture-aware, time-conditioned lesion inpainting, preliminary "
    "experiments: another preparation of LIDC-IDRI, 443 malignant nodules to train on, 49 to test on, and its own "
    "training time. It does not state how its grey levels are binned or its images scaled. Compare its rows with one "
    "another, not with ours.",
    "Ours: mean (standard deviation over features). Synthetic lesions are held against real lesions of other patients, "
    "so real vs real in the same splits is what a perfect generator would have. The proposal's distances are those "
    "between the two whole sets; ours of that kind are `whole` in report.json.",
    "The means of GLCM and GLRLM are ruled by the few features of the largest unit; standardised, each feature is "
    "divided by its standard deviation over the real lesions.",
    "MSE: between a lesion and the real one in whose mask it was made, on the CT mapped from -1150 ... 350 HU to "
    "[-1, 1], in the mask only; mean (standard deviation over lesions). It rewards the average lesion, not a real one.",
    COSTS_READING,
)


class Cost(NamedTuple):
    """What a method took.

    Attributes:
        steps: Optimisation steps done.
        planned: Steps that its learning-rate schedule was made for.
        minutes: Of training.
        calls: Of the network, for one lesion.
        seconds: To paint one lesion.
    """

    steps: int
    planned: int
    minutes: float
    calls: int
    seconds: float


def baseline_blocks(report: Mapping[str, Any], costs: Mapping[str, Cost]) -> list[Block]:
    """The tables of a comparison of methods.

    Args:
        report: Content of the report.json that scripts/evaluate.py wrote; its methods are those of `costs`.
        costs: By method, in the order of the rows.
    """
    methods = list(costs)
    rows = [[method, *distance_cells(report, method, DISTANCES), _mse_cell(report, method)] for method in methods]
    proposal = [[f"proposal: {name} (other data)", *cells] for name, cells in PROPOSAL_TABLE.items()]
    more = [[method, *distance_cells(report, method, MORE_DISTANCES)] for method in methods]
    missing = [note for note in report["left_out"] if note.startswith(("FID", "pyradiomics"))]
    sizes = {(r["real_lesions"], r["synthetic_lesions"]) for r in report["distances"] if r["method"] in methods}
    lesions = "; ".join(f"{synthetic} synthetic lesions, {real} real ones" for real, synthetic in sorted(sizes))
    return [
        Heading("Baselines", 1),
        Paragraph(f"{lesions}; foreground only."),
        Heading("Table 1 of the texture-loss proposal, with ours"),
        Table(["set", *DISTANCES, "MSE ×10⁻²"], [*rows, floor_row(report, methods, (*DISTANCES, MSE)), *proposal]),
        *([Bullets(missing)] if missing else []),
        Heading("Further distances"),
        Table(["set", *MORE_DISTANCES], [*more, floor_row(report, methods, MORE_DISTANCES)]),
        Heading("What the methods took"),
        cost_table(costs),
        Heading("How to read this"),
        Bullets(READING),
    ]


def cost_table(costs: Mapping[str, Cost]) -> Table:
    """What each method took."""
    return Table(["method", *COSTS], [[method, *_cost_cells(cost)] for method, cost in costs.items()])


def distance_cells(report: Mapping[str, Any], method: str, metrics: tuple[str, ...]) -> list[str]:
    """ "mean (std)" of each distance of a method; a dash for one that could not be measured."""
    found = {row["metric"]: row for row in report["distances"] if row["method"] == method}
    return [_spread(found[metric]["value"], found[metric]["std"]) if metric in found else NONE for metric in metrics]


def floor_row(report: Mapping[str, Any], methods: list[str], metrics: tuple[str, ...]) -> list[str]:
    """Real vs real: the first method's that has it, as all methods have the same masks and so the same splits."""
    cells = []
    for metric in metrics:
        rows = [row for row in report["distances"] if row["metric"] == metric and row["method"] in methods]
        floor = next((row["floor"] for row in rows if row["floor"]), None)
        cells.append(_spread(floor["mean"], floor["std"]) if floor else NONE)
    return ["real vs real", *cells]


def _mse_cell(report: Mapping[str, Any], method: str) -> str:
    for row in report["pairs"]:
        if (row["method"], row["metric"]) == (method, MSE):
            return _spread(row["mean"] / MSE_UNIT, row["std"] / MSE_UNIT)
    return NONE


def _cost_cells(cost: Cost) -> list[str]:
    steps = str(cost.steps) if cost.steps == cost.planned else f"{cost.steps} of {cost.planned}"
    return [steps, number(cost.minutes), str(cost.calls), number(cost.seconds)]


def _spread(value: float | None, std: float | None) -> str:
    return number(value) + (f" ({number(std)})" if std is not None else "")
