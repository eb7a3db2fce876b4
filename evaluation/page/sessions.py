"""Sessions: a folder each, with one scan and its results. A restart finds them again; unused ones are deleted."""

import json
import re
import secrets
import shutil
import time
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from foundation.atomic import write_atomically

ID = re.compile(r"[A-Za-z0-9_-]{22}")  # 128 random bits: who knows it may use the session
RESULT_ID = re.compile(r"[0-9a-f]{16}")
FILES = re.compile(
    r"(ct|paint_mask|lesion_mask|brush)\.nii\.gz|record\.json|lesions\.csv|lesions_seg\.dcm|overview(_\d+)?\.png"
)
STATED_EVERY_S = 60.0  # how often a session's use is noted


class Sessions:
    """The folders.

    Args:
        root: Of all sessions; created, readable by its owner alone.
        most: Sessions at a time.
        expiry_s: Time without a request after which a session is deleted.
        most_results: Of a session.
    """

    def __init__(self, root: Path, most: int, expiry_s: float, most_results: int) -> None:
        self.root, self.most, self.expiry_s, self.most_results = root.resolve(), most, expiry_s, most_results
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def create(self) -> str:
        """A new session. Raises HTTPException 503 if there are too many."""
        if len(self.all()) >= self.most:
            detail = f"{self.most} sessions are open, which is the limit; close one, or try again later"
            raise HTTPException(503, detail, {"Retry-After": "60"})
        session = secrets.token_urlsafe(16)
        (self.root / session / "results").mkdir(mode=0o700, parents=True)
        (self.root / session / "used").touch()
        return session

    def all(self) -> list[str]:
        """Their names."""
        return [path.name for path in self.root.iterdir() if ID.fullmatch(path.name)]

    def folder(self, session: str) -> Path:
        """Of a session, whose use is noted. Raises HTTPException 404 if there is none of this name."""
        folder = self.root / session
        if not ID.fullmatch(session) or not (folder / "used").is_file():
            raise HTTPException(404, "no such session; it may have expired, open a new one")
        if time.time() - (folder / "used").stat().st_mtime > STATED_EVERY_S:
            (folder / "used").touch()
        return folder

    def delete(self, session: str) -> None:
        """Remove a session's folder; "used" goes first, so that a half-deleted session is none."""
        (self.root / session / "used").unlink(missing_ok=True)
        shutil.rmtree(self.root / session, ignore_errors=True)

    def expired(self) -> list[str]:
        """Sessions that nobody used for too long, and remains of deleted ones."""
        oldest = time.time() - self.expiry_s
        marks = {session: self.root / session / "used" for session in self.all()}
        return [session for session, mark in marks.items() if not mark.exists() or mark.stat().st_mtime < oldest]

    def scan(self, session: str) -> dict[str, Any]:
        """What is known of a session's scan. Raises HTTPException 409 if none was uploaded."""
        path = self.folder(session) / "scan.json"
        if not path.is_file():
            raise HTTPException(409, "this session has no scan yet; upload one, or take the phantom")
        return json.loads(path.read_text())

    def result_folder(self, session: str, result: str) -> Path:
        """Of a finished result. Raises HTTPException 404 if there is none of this name."""
        folder = self.folder(session) / "results" / result
        if not RESULT_ID.fullmatch(result) or not (folder / "result.json").is_file():
            raise HTTPException(404, "no such result in this session")
        return folder

    def result_file(self, session: str, result: str, name: str) -> Path:
        """A file of a result. Raises HTTPException 404 for another name than those that results have."""
        path = self.result_folder(session, result) / name
        if not FILES.fullmatch(name) or not path.is_file():
            raise HTTPException(404, "no such file in this result")
        return path

    def results(self, session: str) -> list[dict[str, Any]]:
        """All finished results, in the order in which they were made."""
        paths = (self.folder(session) / "results").glob("*/result.json")
        found = [json.loads(path.read_text()) for path in paths if RESULT_ID.fullmatch(path.parent.name)]
        return sorted(found, key=lambda result: result["number"])


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, which appears complete or not at all."""
    write_atomically(path, lambda temporary: temporary.write_text(json.dumps(content)))
