"""Who may answer a study: each reader has a token, which says who it is."""

import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from foundation.atomic import write_atomically
from foundation.text_files import read_json

READERS = "readers.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


def reader_tokens(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """The token of each reader of a study; new names get new ones, known names keep theirs.

    The file `readers.json` can be read by its owner alone.

    Args:
        folder: Of the study.
        names: Readers to admit beside those that the file has.
    Returns: Name -> token.
    Raises: ValueError: If a name has other characters than letters, digits, - and _, or there is no reader.
    """
    for name in names:
        if not NAME.fullmatch(name):
            raise ValueError(f"reader {name!r}, expected up to 40 letters, digits, - and _; choose another name")
    path = folder / READERS
    known: dict[str, str] = dict(read_json(path)) if path.is_file() else {}
    tokens = known | {name: secrets.token_urlsafe(18) for name in names if name not in known}
    if not tokens:
        raise ValueError("no reader; give --readers NAME,NAME")
    if tokens != known:

        def write(temporary: Path) -> None:
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(json.dumps(tokens, indent=1) + "\n")

        write_atomically(path, write)
    return tokens


def reader_of(header: str | None, tokens: Mapping[str, str]) -> str | None:
    """The reader whose token an `Authorization: Bearer TOKEN` header holds; None if it is nobody's."""
    scheme, _, given = (header or "").partition(" ")
    found = None
    for name, token in tokens.items():  # all of them: the time says nothing about which one was nearly right
        if hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode()):
            found = name
    return found if scheme.lower() == "bearer" else None
