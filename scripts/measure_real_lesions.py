"""Measure real lesions for synthesize.py: their attributes, and how plausible a lesion is.

uv run scripts/measure_real_lesions.py --data data/nodules --out real_lesions.safetensors
The training split is the population. The validation split gives the distances that a plausible lesion has. The test
split is not opened. The file holds statistics, and diameter, ratings and HU of each training lesion, but no name and no
image. The shipped file, evaluation/lesions/real_lesions.safetensors, was measured on the training patients of the
shipped pipeline.
"""

import json
from dataclasses import asdict, dataclass

from foundation.config import ExistingFolder, OutputFile, launch, read_arguments


@dataclass(frozen=True)
class MeasureConfig:
    """What to measure.

    Attributes:
        data: Prepared dataset, on the grid of the pipeline that will paint.
        out: safetensors file to write.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    data: ExistingFolder
    out: OutputFile
    threads: int | None = None


ARGUMENTS = read_arguments(MeasureConfig, __name__)

import numpy as np

from evaluation.lesions.real_lesions import measure_real_lesions, save_real_lesions
from training.data_record import record_data


def main(config: MeasureConfig) -> None:
    """Measure, write, and say what was found."""
    real = measure_real_lesions(config.data)
    record = record_data(config.data)
    assert record is not None  # or it could not have been measured
    save_real_lesions(config.out, real, {"data": json.dumps(asdict(record))})
    low, middle, high = np.percentile(real.character[:, 0], (5, 50, 95))
    print(f"{len(real.character)} training lesions, {low:.1f} to {high:.1f} mm, median {middle:.1f} mm")
    middle, high = np.percentile(real.held_out, (50, 95))
    print(f"{len(real.held_out)} held-out lesions at a distance of {middle:.2f}, one in twenty beyond {high:.2f}")
    print(f"reference: {config.out}")


if __name__ == "__main__":
    launch(main, ARGUMENTS)
