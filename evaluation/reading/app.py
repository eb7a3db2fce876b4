"""The HTTP paths of a reading study.

- GET /, and the files of the page: no token
- GET /api/state: where the reader is
- GET /api/volume?position=N: the volume of the reader's present position, int16 little-endian
- POST /api/answer: {"position", "verdict", "confidence", "seconds"}; answers the new state

All below /api asks for `Authorization: Bearer TOKEN`. No reply depends on the class of a case, except that the truth of
a training case follows its answer. The server never opens the key.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from evaluation.reading.answers import Answer, AnswerFile, now
from evaluation.reading.readers import reader_of
from evaluation.reading.study import Study, reading_order
from foundation.web import limited_body, page_app
from imaging import viewer

PAGE = Path(__file__).with_name("page")
FILES = {"/": PAGE / "index.html", "/study.js": PAGE / "study.js", "/study.css": PAGE / "study.css", **viewer.FILES}
LARGEST_BODY = 4096  # bytes
LONGEST_S = 86_400.0  # for a case


class Reading:
    """Where each reader is."""

    def __init__(self, study: Study, tokens: Mapping[str, str], answers: AnswerFile) -> None:
        """Raises ValueError if the answers are of another study."""
        self.study, self.tokens, self.answers = study, tokens, answers
        self.orders = {reader: reading_order(study, reader) for reader in tokens}
        for reader, order in self.orders.items():
            given = [(answer.position, answer.case, answer.kind) for answer in answers.of(reader)]
            if given != [(n, s.case, s.kind) for n, s in enumerate(order[: len(given)], 1)]:
                raise ValueError(f"{answers.path}: the answers of {reader} do not follow the order of this study")

    def state(self, reader: str) -> dict[str, Any]:
        """What the page shows of a reader's progress."""
        order, given = self.orders[reader], len(self.answers.of(reader))
        is_done = given == len(order)
        return {
            "reader": reader,
            "position": given + 1,
            "total": len(order),
            "training": not is_done and order[given].kind == "training",
            "done": is_done,
            "shape": self.study.shape,
            "spacing_mm": self.study.spacing_mm,
        }

    def volume(self, reader: str, position: str | None) -> bytes:
        """The voxels of the reader's present position. Raises HTTPException 409 for another one."""
        order, given = self.orders[reader], len(self.answers.of(reader))
        if given == len(order) or position != str(given + 1):
            raise HTTPException(409, f"position {str(position)[:20]!r} is not the present one of this reader; reload")
        return self.study.volumes[order[given].case - 1].astype("<i2").tobytes()

    def answer(self, reader: str, given: Any) -> tuple[int, dict[str, Any]]:
        """Store one answer.

        Returns: 200 and the new state, also for an answer that is stored already, whose reply was lost; 409 and the
            state if the position was answered otherwise, for example in another tab.
        Raises: HTTPException: 400 for a malformed answer, 507 if it cannot be written.
        """
        position, verdict, confidence, seconds = _checked(given)
        with self.answers.lock:
            before, order = self.answers.of(reader), self.orders[reader]
            is_new = position == len(before) + 1 <= len(order)
            if is_new:
                showing = order[position - 1]
                answer = Answer(
                    reader, position, showing.case, showing.kind, verdict, confidence, round(seconds, 2), now()
                )
                try:
                    self.answers.append(answer)
                except OSError as error:
                    raise HTTPException(507, f"the answer could not be stored ({error}); tell the organiser") from error
            elif not 1 <= position <= len(before):
                raise HTTPException(400, f"position {str(position)[:20]}, expected {len(before) + 1}; reload the page")
            stored = self.answers.of(reader)[position - 1]
            state = self.state(reader)
        if (stored.verdict, stored.confidence) != (verdict, confidence):
            return 409, state
        if stored.kind == "training":
            state["truth"] = "real" if self.study.training[stored.case] else "synthetic"
        return 200, state


def create_app(study: Study, tokens: Mapping[str, str], answers: AnswerFile) -> FastAPI:
    """The study as an ASGI application.

    Args:
        study: From `load_study`.
        tokens: Reader -> token.
        answers: Open file.
    Raises: ValueError: If the answers are of another study.
    """
    reading = Reading(study, tokens, answers)
    app = page_app(FILES)

    def reader(request: Request) -> str:
        found = reader_of(request.headers.get("authorization"), tokens)
        if found is None:
            detail = "the token is missing or wrong; open the link that the organiser gave you"
            raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})
        return found

    @app.get("/api/state")
    async def state(request: Request) -> dict[str, Any]:
        return reading.state(reader(request))

    @app.get("/api/volume")
    async def volume(request: Request) -> Response:
        name, position = reader(request), request.query_params.get("position")
        content = await run_in_threadpool(reading.volume, name, position)
        return Response(content, media_type="application/octet-stream")

    @app.post("/api/answer")
    async def answer(request: Request) -> Response:
        name = reader(request)
        try:
            given = json.loads(await limited_body(request, LARGEST_BODY))
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "the body is no JSON") from error
        status, content = await run_in_threadpool(reading.answer, name, given)
        return Response(json.dumps(content), status, media_type="application/json")

    return app


def _checked(given: Any) -> tuple[int, Any, int, float]:
    """Position, verdict, confidence, seconds. Raises HTTPException 400 for what is none."""
    fields: dict[str, Any] = given if isinstance(given, dict) else {}
    position, confidence = fields.get("position"), fields.get("confidence")
    verdict, seconds = fields.get("verdict"), fields.get("seconds")
    if type(position) is not int or type(confidence) is not int or not 1 <= confidence <= 5:
        raise HTTPException(400, "expected position and confidence (1 to 5), both whole numbers")
    if verdict not in ("real", "synthetic"):
        raise HTTPException(400, "expected verdict, real or synthetic")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
        raise HTTPException(400, "seconds: expected a number")
    return position, verdict, confidence, float(min(max(seconds, 0.0), LONGEST_S))
