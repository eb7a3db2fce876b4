"""Examine a detector: the same lesions at other sizes, densities, textures and distances to the lung's wall.

uv run scripts/virtual_trial.py --scans scan_folder --detector reports/gain/cells/detection_real_1_0.safetensors \\
    --lesions 20 --out reports/trial
The detector is a network of evaluate_downstream.py, a Python function `module:function`, or a command line with {ct}
and {out}. One factor is changed at a time; shape, place and noise of a lesion stay. Every lesion is on disk as soon as
it is examined: the same command continues. The report has a curve of sensitivity for each factor.
"""

from dataclasses import dataclass, field

from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from foundation.config import ExistingFolder, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class VirtualTrialConfig(SamplingConfig):
    """What to examine.

    Attributes:
        scans: Folder in which scans are looked for at any depth; lesions go to them in turn.
        detector: A .safetensors file of evaluate_downstream.py; `module:function`, which takes a SimpleITK image in HU
            and returns rows x, y, z (mm, LPS), score; or a command line, for example "detect {ct} {out}", which reads a
            NIfTI file and writes a CSV file with the columns x, y, z, score.
        lesions: Virtual lesions; each is painted once per level.
        diameter_mm: Where no other is examined.
        levels: By factor: diameter_mm, mean_hu, texture (1 to 5), wall_mm (from the lesion's border to the lung's).
        threshold: Score from which a lesion counts as found.
        reach_mm: How far the part of the scan that the detector sees reaches from the lesion.
    """

    scans: ExistingFolder
    detector: str
    lesions: int = 20
    diameter_mm: float = 8.0
    levels: dict[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "diameter_mm": (4.0, 6.0, 8.0, 12.0, 16.0),
            "mean_hu": (-650.0, -500.0, -300.0, -100.0),
            "texture": (1.0, 3.0, 5.0),
            "wall_mm": (1.0, 5.0, 10.0, 20.0),
        }
    )
    threshold: float = 0.5
    reach_mm: float = 40.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lesions < 1 or not self.diameter_mm > 0 or not self.reach_mm >= 24:
            raise ValueError(
                f"lesions {self.lesions}, diameter_mm {self.diameter_mm}, reach_mm {self.reach_mm}: expected at least "
                "1 lesion, a positive diameter, and at least 24 mm"
            )


ARGUMENTS = read_arguments(VirtualTrialConfig, __name__)

import json
from pathlib import Path

from tqdm import tqdm

from evaluation.downstream.trial_detectors import detector_of
from evaluation.downstream.virtual_trial import best_score, conditions_of, draw_lesion, painted
from evaluation.reports.trial_report import save_trial_report
from foundation.atomic import write_atomically
from foundation.claimed_folder import claim_folder
from foundation.threads import use_threads
from imaging.files.ct import read_ct
from imaging.files.scan_folder import find_scans
from imaging.lesions.sites import free_lung

FREE = ("out", "lesions", "threshold", "device", "threads")  # what a lesion's scores do not depend on


def main(config: VirtualTrialConfig) -> None:
    """Paint, detect, and report."""
    use_threads(config.threads)
    conditions = conditions_of(config.diameter_mm, config.levels)
    detect = detector_of(config.detector)
    scans = find_scans(config.scans)
    pipeline, folder = load_pipeline(config)
    if pipeline.shapes is None:
        raise ValueError(f"{config.pipeline}: has no shapes of real nodules, which a trial draws lesions from")
    pipeline.set_progress_bar_config(disable=True)
    settings = {name: value for name, value in config_dict(config).items() if name not in FREE}
    claim_folder(config.out / "lesions", settings | weights_of(config, pipeline, folder))

    files = [config.out / "lesions" / f"{number:04d}.json" for number in range(config.lesions)]
    with tqdm(total=len(files) * len(conditions), desc=config.out.name) as bar:
        for first in range(min(len(scans), len(files))):
            own = [number for number in range(first, len(files), len(scans)) if not files[number].exists()]
            bar.update(len(conditions) * (len(range(first, len(files), len(scans))) - len(own)))
            if not own:
                continue
            ct = read_ct(scans[first])
            lung = free_lung(ct)
            for number in own:
                given = (scans[first].name, lung, pipeline.shapes, config.diameter_mm, config.levels, config.seed)
                lesion = draw_lesion(number, *given)
                rows = []
                for condition in conditions:
                    options = (config.diameter_mm, config.call_options(), config.reach_mm, config.seed)
                    part, mask = painted(lesion, condition, ct, pipeline, *options)
                    rows.append(vars(condition) | {"score": best_score(detect(part), mask)})
                    bar.update()
                keep(files[number], {"scan": lesion.scan, "conditions": rows})

    done = [json.loads(file.read_text())["conditions"] for file in files]
    save_trial_report(config.out, done, config.threshold, config_dict(config))
    print(f"report: {config.out / 'report.html'}, {len(done)} lesions under {len(conditions)} conditions")


def keep(path: Path, record: dict) -> None:
    """Store a lesion's scores, complete or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(record)))


if __name__ == "__main__":
    launch(main, ARGUMENTS)
