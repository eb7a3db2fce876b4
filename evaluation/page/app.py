"""The paths of the page and of its REST service; GET /v1/openapi.json describes them to programs.

A session has a folder, one scan and results. `POST /v1/inpaint` puts lesions into the queue; the job's events tell how
far it is; the result has the name of the job. Every error is JSON, {"detail": one sentence}. Axes are z, y, x.
"""

import asyncio
import json
import logging
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from autoencoder.service.request import check_authorization
from diffusion.sampling.request import STEPS
from evaluation.page.guard import full, guard_of, invalid, sentence
from evaluation.page.jobs import ENDED, Full, Job, Jobs
from evaluation.page.painter import Painter, phantom_file
from evaluation.page.schema import InpaintBody, PhantomBody, SiteBody
from evaluation.page.sessions import FILES as RESULT_FILES
from evaluation.page.sessions import write_json
from evaluation.page.uploads import UploadLimits, check_voxels, receive, stored_name, unpacked
from foundation.web import limited_body, page_app
from imaging import viewer

logger = logging.getLogger(__name__)
STATIC = Path(__file__).with_name("static")
FILES = {"/": STATIC / "index.html", **{f"/{path.name}": path for path in STATIC.glob("*.[cj]s*")}}
POLL_S, ALIVE_S, SWEEP_S = 0.1, 15.0, 60.0  # of events; of comments that keep a connection; between deletions
MOST_MASK = 2**26  # voxels of a brush mask's box
Box = Annotated[str, Query(pattern=r"^\d{1,6},\d{1,6},\d{1,6}$", description="Three whole numbers, z,y,x.")]


def create_app(
    painter: Painter,
    jobs: Jobs,
    limits: UploadLimits | None = None,
    token: str | None = None,
    hosts: Sequence[str] | None = None,
) -> FastAPI:
    """The page as an ASGI application.

    Args:
        painter: With the pipeline and the sessions.
        jobs: The queue in front of it.
        limits: Of uploads; None for the defaults.
        token: Asked for by all paths below /v1; None asks for nothing.
        hosts: Names under which a browser may reach it; None takes any. Names keep other sites from reaching a
            loopback server by a name of their own (DNS rebinding).
    """
    limits, sessions = limits or UploadLimits(), painter.sessions
    app = page_app({**FILES, **viewer.FILES})
    app.title, app.version = "Lesion Diffusion", version("lesion-diffusion")
    app.description = (__doc__ or "").partition("\n\n")[2]
    app.router.lifespan_context = _lifespan(painter, jobs)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Full, full)
    app.middleware("http")(guard_of(hosts))

    async def authorized(request: Request) -> None:
        check_authorization(request.headers.get("authorization"), token)

    def job_of(session: str, job: str) -> Job:
        sessions.folder(session)
        found = jobs.find(session, job)
        if found is None:
            raise HTTPException(404, "no such job in this session; it may have ended before the server was restarted")
        return found

    secured: dict[str, Any] = {"dependencies": [Depends(authorized)]}
    uploading: set[str] = set()
    reading = threading.Lock()  # one scan is unpacked and read at a time: each may take gigabytes

    @app.get("/v1/openapi.json", include_in_schema=False, **secured)
    def openapi() -> dict[str, Any]:
        return app.openapi()

    @app.get("/v1/info", **secured)
    def info() -> dict[str, Any]:
        """What the pipeline can be requested, and the limits."""
        config = painter.pipeline.config
        return {
            "version": version("lesion-diffusion"),
            "pipeline": painter.source,
            "attributes": painter.attributes(),
            "shapes": ["real", "procedural", *(["learned"] if painter.paired else [])],
            "steps": STEPS,
            "model_mm": config["crop_size"] * config["spacing_mm"],
            "upload_bytes": limits.bytes,
            "upload_files": limits.files,
            "expiry_s": sessions.expiry_s,
        }

    @app.post("/v1/sessions", status_code=201, **secured)
    def open_session() -> dict[str, str]:
        """A new session. Its name is a secret: who knows it may use the session."""
        return {"session": sessions.create()}

    @app.get("/v1/sessions/{session}", **secured)
    def session_state(session: str) -> dict[str, Any]:
        """The scan, finished results, and jobs that wait or run."""
        folder = sessions.folder(session)
        scan = sessions.scan(session) if (folder / "scan.json").exists() else None
        open_jobs = [jobs.describe(job) | {"request": job.body.model_dump()} for job in jobs.of(session)]
        return {"scan": scan, "results": sessions.results(session), "jobs": open_jobs}

    @app.delete("/v1/sessions/{session}", status_code=204, **secured)
    def close_session(session: str) -> None:
        """Delete the session with its scan and results."""
        sessions.folder(session)
        _delete(painter, jobs, session)

    @app.put("/v1/sessions/{session}/scan", **secured)
    async def upload_scan(
        session: str, request: Request, name: Annotated[str, Query(max_length=255)], series_uid: str | None = None
    ) -> dict[str, Any]:
        """Upload a scan as the body: .nii, .nii.gz, or a .zip of the DICOM files of one series."""
        folder = sessions.folder(session)
        if (folder / "scan.json").exists() or session in uploading:
            raise HTTPException(409, "this session has its scan; open a new session for another one")
        with sentence(folder):
            stored = stored_name(name)
        declared = request.headers.get("content-length")
        uploading.add(session)
        try:
            await receive(request.stream(), folder / stored, limits, int(declared) if declared else None)
            return await run_in_threadpool(accept, session, folder / stored, series_uid)
        finally:
            uploading.discard(session)
            if not (folder / "scan.json").exists():
                for remains in (folder / stored, folder / "dicom"):
                    shutil.rmtree(remains) if remains.is_dir() else remains.unlink(missing_ok=True)

    def accept(session: str, path: Path, series_uid: str | None) -> dict[str, Any]:
        with sentence(path.parent), reading:
            if path.suffix == ".zip":
                folder = path.with_name("dicom")
                unpacked(path, folder, limits)
                path.unlink()
                path = folder
            check_voxels(path, limits)
            return painter.accept_scan(session, path.name, series_uid)

    @app.post("/v1/sessions/{session}/phantom", **secured)
    def take_phantom(session: str, body: PhantomBody) -> dict[str, Any]:
        """Take the chest phantom as the scan."""
        folder = sessions.folder(session)
        if (folder / "scan.json").exists():
            raise HTTPException(409, "this session has its scan; open a new session for another one")
        with reading:
            shutil.copyfile(phantom_file(sessions.root, body.seed), folder / "scan.nii.gz")
            return painter.accept_scan(session, "scan.nii.gz", None)

    @app.get("/v1/sessions/{session}/scan/volume", **secured)
    def volume(session: str) -> Response:
        """The scan in HU, int16 little-endian, z slowest; turned along the axes that `flips` of the scan names."""
        return Response(painter.volume(session), media_type="application/octet-stream")

    @app.get("/v1/sessions/{session}/scan/file", **secured)
    def scan_file(session: str) -> Response:
        """The scan's NIfTI file."""
        path = sessions.folder(session) / sessions.scan(session)["path"]
        if not path.is_file():
            raise HTTPException(404, "the scan is a DICOM series, which you have")
        return FileResponse(path, filename=path.name)

    @app.post("/v1/sessions/{session}/site", **secured)
    def suggest_site(session: str, body: SiteBody) -> dict[str, list[float]]:
        """A free place in the lung, away from the given lesions."""
        with sentence(sessions.folder(session)):
            return {"center": painter.site(session, body)}

    @app.put("/v1/sessions/{session}/masks", **secured)
    async def upload_mask(session: str, request: Request, origin: Box, size: Box) -> dict[str, str]:
        """Upload a brush mask as the body: 0 or 1, a byte a voxel, z slowest, of a box of the scan."""
        folder, shape = sessions.folder(session), sessions.scan(session)["shape"]
        first, extent = ([int(text) for text in given.split(",")] for given in (origin, size))
        if any(start + n > whole or n < 1 for start, n, whole in zip(first, extent, shape, strict=True)):
            raise HTTPException(400, f"the box at {first} of {extent} voxels lies outside the scan of {shape} voxels")
        expected = int(np.prod(extent, dtype=object))
        if expected > MOST_MASK:
            raise HTTPException(413, f"the mask has {expected} voxels, expected at most {MOST_MASK}")
        content = await limited_body(request, expected)
        if len(content) != expected or max(content) != 1:
            raise HTTPException(400, f"expected {expected} bytes of 0 and 1, not all 0, and got {len(content)}")
        name = secrets.token_hex(8)
        (folder / "masks").mkdir(exist_ok=True)
        (folder / "masks" / f"{name}.raw").write_bytes(content)
        write_json(folder / "masks" / f"{name}.json", {"origin": first, "size": extent})
        return {"mask": name}

    @app.post("/v1/inpaint", status_code=202, **secured)
    def inpaint(body: InpaintBody) -> dict[str, Any]:
        """Paint lesions into the session's scan: a job, whose result has the job's name."""
        with sentence(sessions.folder(body.session)):
            painter.check(body)
        if len(sessions.results(body.session)) >= sessions.most_results:
            raise HTTPException(409, f"this session holds {sessions.most_results} results; delete one first")
        return jobs.describe(jobs.submit(body))

    @app.get("/v1/sessions/{session}/jobs/{job}", **secured)
    def job_state(session: str, job: str) -> dict[str, Any]:
        """How far a job is."""
        return jobs.describe(job_of(session, job))

    @app.delete("/v1/sessions/{session}/jobs/{job}", **secured)
    def cancel_job(session: str, job: str) -> dict[str, Any]:
        """Cancel a job; one that runs ends after its present step."""
        found = job_of(session, job)
        jobs.cancel(found)
        return jobs.describe(found)

    @app.get("/v1/sessions/{session}/jobs/{job}/events", response_class=StreamingResponse, **secured)
    async def job_events(session: str, job: str) -> StreamingResponse:
        """The states of a job as server-sent events; the stream ends with the job."""
        return StreamingResponse(_events(jobs, job_of(session, job)), media_type="text/event-stream")

    @app.get("/v1/sessions/{session}/results/{result}", **secured)
    def result_state(session: str, result: str) -> dict[str, Any]:
        """A finished result: lesions, settings, what was measured, command and Python that make it again."""
        return json.loads((sessions.result_folder(session, result) / "result.json").read_text())

    @app.delete("/v1/sessions/{session}/results/{result}", status_code=204, **secured)
    def delete_result(session: str, result: str) -> None:
        """Delete a result."""
        shutil.rmtree(sessions.result_folder(session, result), ignore_errors=True)

    @app.get("/v1/sessions/{session}/results/{result}/change/{kind}", **secured)
    def change(session: str, result: str, kind: Literal["after", "labels"]) -> Response:
        """Within the result's `box`, turned as the volume: HU (int16) or labels of the lesions (uint8)."""
        path = sessions.result_folder(session, result) / f"{kind}.raw"
        return FileResponse(path, media_type="application/octet-stream")

    @app.get("/v1/sessions/{session}/results/{result}/files/{name}", **secured)
    def result_file(session: str, result: str, name: str) -> Response:
        """A file of a result, the same bytes as scripts/inpaint.py writes."""
        return FileResponse(sessions.result_file(session, result, name), filename=name)

    @app.get("/v1/sessions/{session}/results/{result}/zip", **secured)
    def result_zip(session: str, result: str) -> Response:
        """All files of a result: of a DICOM scan the derived series and the segmentation, too."""
        path = _zipped(sessions.result_folder(session, result))
        return FileResponse(path, filename="lesion.zip", background=BackgroundTask(path.unlink))

    return app


async def _events(jobs: Jobs, job: Job) -> AsyncIterator[str]:
    sent, at = "", time.monotonic()
    while True:
        state = jobs.describe(job)
        text = json.dumps(state)
        if text != sent:
            sent, at = text, time.monotonic()
            yield f"data: {text}\n\n"
        elif time.monotonic() - at > ALIVE_S:
            at = time.monotonic()
            yield ": alive\n\n"
        if state["state"] in ENDED:
            return
        await asyncio.sleep(POLL_S)


def _zipped(folder: Path) -> Path:
    """A temporary zip of a result's files, stored: they are compressed already or little."""
    with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file, zipfile.ZipFile(file, "w") as archive:
        for path in sorted(folder.iterdir()):
            if RESULT_FILES.fullmatch(path.name):
                archive.write(path, path.name)
        for path in sorted((folder / "ct").glob("*.dcm")):
            archive.write(path, f"ct/{path.name}")
    return Path(file.name)


def _delete(painter: Painter, jobs: Jobs, session: str) -> None:
    for job in jobs.of(session):
        jobs.cancel(job)
    painter.forget(session)
    painter.sessions.delete(session)


def _lifespan(painter: Painter, jobs: Jobs):
    """Delete what expired, at the start and then every minute; end the queue at the end."""

    def sweep() -> None:
        for session in painter.sessions.expired():
            if not jobs.of(session):
                _delete(painter, jobs, session)

    async def sweeping() -> None:
        while True:
            try:
                await asyncio.to_thread(sweep)
            except OSError as error:
                logger.error("expired sessions could not be deleted: %s", type(error).__name__)
            await asyncio.sleep(SWEEP_S)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for unfinished in painter.sessions.root.glob("*/results/*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
        task = asyncio.create_task(sweeping())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await asyncio.to_thread(jobs.close)

    return lifespan
