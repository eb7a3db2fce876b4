"""A blinded sheet of real and synthetic lesions, and what a reader's answers say.

    uv run benchmarks/quality/blinded_sheet.py --real data/joined --split validation --synthetic runs/lesions \
        --cases 60 --out runs/sheet
    uv run benchmarks/quality/blinded_sheet.py --out runs/sheet --synthetic-cases '[2,5,9]'

The first command draws the pages `page_1.png` ... and writes the sealed key `key.bin`. The reader notes the numbers of
the cases that look synthetic. The second command opens the key and prints the figures.
"""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

from evaluation.lesions.blinded_reading import chosen_cases, pages, reading_figures
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.openings import open_test_split
from foundation.atomic import write_atomically
from foundation.config import ExistingFolder, config_dict, launch, parse_config

KEY = "key.bin"  # compressed, so that no one reads it by accident


@dataclass(frozen=True, kw_only=True)
class SheetConfig:
    """What to draw, or what was read.

    Attributes:
        out: Folder of the pages and the key.
        real: Prepared dataset, to draw a sheet.
        synthetic: Lesions painted in its masks.
        split: Of both.
        cases: Masks; null takes all.
        first: Index of the first mask.
        seed: Decides which half is real.
        synthetic_cases: Numbers of the cases that the reader called synthetic; given, the key is opened.
    """

    out: Path
    real: ExistingFolder | None = None
    synthetic: ExistingFolder | None = None
    split: str = "validation"
    cases: int | None = None
    first: int = 0
    seed: int = 0
    synthetic_cases: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.synthetic_cases is None and (self.real is None or self.synthetic is None):
            raise ValueError("expected real and synthetic, to draw a sheet, or synthetic_cases, to read one's answers")


def main(config: SheetConfig) -> None:
    """Draw, or analyse."""
    if config.synthetic_cases is not None:
        print_answers(config.out, config.synthetic_cases)
        return
    assert config.real is not None and config.synthetic is not None
    openings = open_test_split(config.real, config.split, "blinded_sheet", config_dict(config))
    sets = [load_lesions(path, config.split)[0] for path in (config.real, config.synthetic)]
    cases = chosen_cases(sets[0], sets[1], config.cases, config.first, config.seed)

    def write(folder: Path) -> None:
        folder.mkdir()
        for number, page in enumerate(pages(cases), 1):
            page.save(folder / f"page_{number}.png")
        key = [{"case": case.number, "real": case.real, "lesion": case.lesion.name} for case in cases]
        (folder / KEY).write_bytes(zlib.compress(json.dumps(key).encode()))

    write_atomically(config.out, write)
    print(f"{len(cases)} cases in {config.out}" + (f"; {openings}" if openings else ""))


def print_answers(folder: Path, called: tuple[int, ...]) -> None:
    """Print a reading's figures. Raises ValueError for the number of a case that there is not."""
    path = folder / KEY
    if not path.is_file():
        raise ValueError(f"{path}: not found; draw the sheet first")
    key = json.loads(zlib.decompressobj().decompress(path.read_bytes(), 1 << 24))
    unknown = set(called) - {case["case"] for case in key}
    if unknown:
        raise ValueError(f"synthetic_cases has {min(unknown)}, expected numbers from 1 to {len(key)}")
    figures = reading_figures([case["case"] in called for case in key], [case["real"] for case in key])
    for name, (value, low, high) in figures.items():
        print(f"{name.replace('_', ' ')}: {value:.2f} ({low:.2f} ... {high:.2f})")
    synthetic = [case for case in key if not case["real"]]
    print("synthetic lesions that were recognised:", *(c["lesion"] for c in synthetic if c["case"] in called))


if __name__ == "__main__":
    launch(main, parse_config(SheetConfig))
