"""Inpaint a new lesion into every mask of a prepared dataset, as a prepared dataset of its own.

python scripts/inpaint_nodules.py --data data/nodules --split test --pipeline runs/ldm/pipeline --out data/synthetic
What scripts/evaluate.py compares with the real lesions, and what augments a training set. Every batch is on disk as
soon as it is made: the same command continues. A lesion that fails costs itself alone and is listed in
<out>_left_out.csv.
"""

from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from foundation.config import config_dict, launch, read_arguments

ARGUMENTS = read_arguments(SyntheticSetConfig, __name__)

from evaluation.lesions.openings import open_test_split
from evaluation.lesions.synthetic_sets import load_and_make_set


def main(config: SyntheticSetConfig) -> None:
    """Make the set, or what is missing of it."""
    openings = open_test_split(config.data, config.split, "inpaint_nodules", config_dict(config))
    if openings:
        print(openings)
    load_and_make_set(config)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
