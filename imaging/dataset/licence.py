"""Under which licence a prepared dataset is: what its card says, or what its rows are named after."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from foundation.text_files import read_text

LIDC_LICENCE = "cc-by-3.0"
LARGEST = 2**18  # bytes of a card
LIDC_PATIENT = re.compile(r"LIDC-IDRI-\d{4}$")  # the public archive's own pseudonyms


def licence_of(folder: Path, lidc: bool) -> str | None:
    """The licence as the Hub writes it, for example "cc-by-3.0": the card's, or LIDC-IDRI's; None if nothing says it.

    Args:
        folder: The dataset's.
        lidc: From :func:`is_lidc`.
    Raises: ValueError: If there is a card that is no text.
    """
    card = card_of(folder)
    stated = header_of(read_text(card, LARGEST)).get("license") if card else None
    return stated if isinstance(stated, str) else LIDC_LICENCE if lidc else None


def is_lidc(sources: Iterable[str], patients: Iterable[str]) -> bool:
    """Whether all rows are of LIDC-IDRI: their sources are named after it, or their patients are its pseudonyms."""
    sources, patients = list(sources), list(patients)
    by_source = bool(sources) and all("lidc" in source.lower() for source in sources)
    return by_source or (bool(patients) and all(LIDC_PATIENT.match(patient) for patient in patients))


def card_of(folder: Path) -> Path | None:
    """The card of a dataset's folder; None if it has none."""
    beside = [folder.parent / "README.md"] if (folder.parent / "splits.csv").is_file() else []  # as prepare_lidc writes
    return next((path for path in (folder / "README.md", *beside) if path.is_file()), None)


def header_of(card: str) -> dict[str, Any]:
    """The YAML between the two `---` lines that begin a card; empty if it has none or a broken one."""
    found = re.match(r"---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        header = yaml.safe_load(found[1]) if found else None
    except Exception:  # PyYAML raises many kinds on damaged files
        header = None
    return header if isinstance(header, dict) else {}
