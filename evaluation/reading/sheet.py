"""A blinded sheet: PNG pages of cases, for a quick look without a browser."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from evaluation.lesions.lesion_sets import Lesion, centre_slices, lesion_cube
from evaluation.reading.cases import Case
from evaluation.reading.study import KeyCase, check_study_folder, write_key
from foundation.atomic import write_atomically

SIDE, ZOOM, GAP, LABEL = 36, 4, 3, 18  # voxels of 1 mm shown; pixels for a voxel, between tiles, above them
COLUMNS, ROWS = 3, 8  # cases on a page


def write_sheet(out: Path, cases: Sequence[Case]) -> None:
    """Write `page_1.png` ... and the sealed key `key.bin`.

    Args:
        out: Folder; see `check_study_folder`.
        cases: In the order of the pages.
    """

    def write(folder: Path) -> None:
        folder.mkdir()
        for number, page in enumerate(pages(cases), 1):
            page.save(folder / f"page_{number}.png")
        write_key(folder, [KeyCase(case.number, case.real, case.lesion.name) for case in cases])

    check_study_folder(out)
    write_atomically(out, write)


def pages(cases: Sequence[Case]) -> list[Image.Image]:
    """Sheets of grey pictures: the three planes through each lesion's centre, its number above; lung window."""
    width, height = COLUMNS * (3 * (SIDE * ZOOM + GAP) + 20), ROWS * (SIDE * ZOOM + LABEL + GAP)
    sheets = []
    for start in range(0, len(cases), COLUMNS * ROWS):
        sheet = Image.new("L", (width, height))
        draw = ImageDraw.Draw(sheet)
        for place, case in enumerate(cases[start : start + COLUMNS * ROWS]):
            row, column = divmod(place, COLUMNS)
            x, y = column * width // COLUMNS, row * height // ROWS
            draw.text((x + 4, y + 3), str(case.number), fill=255)
            for plane, tile in enumerate(_tiles(case.lesion)):
                sheet.paste(tile, (x + plane * (SIDE * ZOOM + GAP), y + LABEL))
        sheets.append(sheet)
    return sheets


def _tiles(lesion: Lesion) -> list[Image.Image]:
    grey = (255 * np.clip((centre_slices(lesion_cube(lesion, SIDE)[0]) + 1) / 2, 0, 1)).astype(np.uint8)
    return [Image.fromarray(plane).resize((SIDE * ZOOM, SIDE * ZOOM), Image.Resampling.BICUBIC) for plane in grey]
