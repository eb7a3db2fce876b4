"""Write cases in the folders of a format.

The images of a synthetic set are linked, not copied (hard links, on one file system): they take no room, and stay when
the set is deleted. Those of real scans are written anew, so that nothing a training does can touch the originals.
"""

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import SimpleITK as sitk
from tqdm.auto import tqdm

from foundation.atomic import write_atomically
from foundation.claimed_folder import SETTINGS, claim_folder
from imaging.files.ct import write_ct
from imaging.layouts import coco3d, monai_list, nndetection, nnunet
from imaging.layouts.cases import Case, read_case
from imaging.layouts.folds import check_folds, folds_of, splits_of
from imaging.layouts.layout import Layout, Title, WrittenCase
from imaging.option_types import LayoutName, Validate

LAYOUTS: dict[LayoutName, Layout] = {
    "nnunet": nnunet.LAYOUT,
    "nndetection": nndetection.LAYOUT,
    "monai": monai_list.LAYOUT,
    "coco3d": coco3d.LAYOUT,
}


def export_layout(
    layout: LayoutName,
    cases: Sequence[Case],
    out: Path,
    title: Title,
    folds: int | None = None,
    validate: Validate = "all",
    seed: int = 0,
    workers: int = 1,
) -> None:
    """Write a layout, complete or not at all, and say what was written and what to run next.

    A real scan that cannot be used is named and left out. `cases.csv` lists the cases. What was written before from the
    same cases with the same options stays as it is.

    Args:
        layout: Which.
        cases: From `synthetic_cases` and `real_cases`.
        out: Folder.
        title: Of the dataset.
        folds: How many; None for five, or one a patient where there are fewer.
        validate: As `splits_of`.
        seed: Of the folds.
        workers: Processes.
    Raises: ValueError: If there are too few patients, a synthetic case cannot be read, or the folder holds other files.
    """
    check_folds((case.patient for case in cases), folds)
    digest = hashlib.sha256(json.dumps([_identity(case) for case in cases]).encode()).hexdigest()
    options = {"title": [title.number, title.name], "folds": folds, "validate": validate, "seed": seed}
    settings = {"layout": layout, "cases": f"{len(cases)}, {digest[:16]}", **options}
    if (out / SETTINGS).exists():
        claim_folder(out, settings)
        print(f"{layout}: {out} is there already")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(
            f"{out}: holds {next(out.iterdir()).name} and no {SETTINGS}; choose another folder or empty it"
        )
    form = LAYOUTS[layout]
    named = {"number": title.number, "name": title.name}

    def write(folder: Path) -> None:
        write_one = partial(_write_case, form, folder, named)
        done: list[WrittenCase] = []
        for case, outcome in tqdm(_mapped(write_one, cases, workers), total=len(cases), desc=layout, unit="case"):
            if isinstance(outcome, WrittenCase):
                done.append(outcome)
            elif case.synthetic:
                raise ValueError(outcome)
            else:
                print(f"left out: {outcome}")
        patients = [one.case.patient for one in done]
        fold_of = folds_of(patients, check_folds(patients, folds), seed)
        splits = splits_of([one.case for one in done], fold_of, validate)
        done = [replace(one, fold=fold_of[one.case.patient]) for one in done]
        form.write_index(folder, title, done, splits)
        _list_cases(folder / "cases.csv", done)
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2))
        print(_summary(layout, out, done, len(splits)))

    write_atomically(out, write)
    print("next:", form.next_step.format(out=out.absolute(), **named))


def _identity(case: Case) -> tuple[str, ...]:
    """What tells a case from another state of it: the seeds of its lesions, or the file that names its nodules."""
    seeds = repr([row["noise_seed"] for row in case.rows]).encode()
    content = seeds if case.synthetic else case.labels.read_bytes()
    return case.name, case.scan, case.patient, hashlib.sha256(content).hexdigest()


def _mapped(function, cases: Sequence[Case], workers: int) -> Iterator[tuple[Case, WrittenCase | str]]:
    if workers == 1:
        yield from zip(cases, map(function, cases), strict=True)
        return
    with ProcessPoolExecutor(workers, initializer=_use_one_thread) as pool:
        yield from zip(cases, pool.map(function, cases), strict=True)


def _write_case(form: Layout, folder: Path, named: dict, case: Case) -> WrittenCase | str:
    """Write the image and the labels of a case; what is wrong where it cannot be used."""
    try:
        ct, labels, nodules = read_case(case)
    except ValueError as error:
        return str(error)
    image = form.image.format(case=case.name, **named)
    (folder / image).parent.mkdir(parents=True, exist_ok=True)
    if ct is None:
        _link(case.ct, folder / image)
    else:
        write_ct(ct, folder / image)
    label_file = form.labels and form.labels.format(case=case.name, **named)
    if label_file:
        write_ct(labels if form.instances else labels > 0, folder / label_file)
    place = (labels.GetSize(), labels.GetSpacing(), labels.GetOrigin(), labels.GetDirection())
    return WrittenCase(case, 0, image, label_file, tuple(nodules), *place)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _list_cases(path: Path, cases: Sequence[WrittenCase]) -> None:
    columns = ("case", "kind", "scan", "patient", "fold", "synthetic_lesions", "own_nodules")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for one in cases:
            painted = sum(nodule.synthetic for nodule in one.nodules)
            kind = "synthetic" if one.case.synthetic else "real"
            place = (one.case.name, kind, one.case.scan, one.case.patient, one.fold)
            writer.writerow((*place, painted, len(one.nodules) - painted))


def _summary(layout: LayoutName, out: Path, cases: Sequence[WrittenCase], folds: int) -> str:
    synthetic = sum(one.case.synthetic for one in cases)
    nodules = [nodule.synthetic for one in cases for nodule in one.nodules]
    patients = len({one.case.patient for one in cases})
    return (
        f"{layout}: {synthetic} synthetic and {len(cases) - synthetic} real cases of {patients} patients in {folds} "
        f"folds, {sum(nodules)} synthetic lesions and {len(nodules) - sum(nodules)} nodules of the scans' own: {out}"
    )


def _use_one_thread() -> None:
    """Keep SimpleITK from using all cores in each of several processes."""
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
