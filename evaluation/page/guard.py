"""What the server refuses before a path sees it, how faults are said, and what is logged of a request."""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from evaluation.page.painter import without_path
from foundation.web import HEADERS

logger = logging.getLogger(__name__)
LARGEST_BODY = 2**18  # bytes of JSON
UPLOADS = re.compile(r"/v1/sessions/[^/]+/(scan|masks)")


@contextmanager
def sentence(folder: Path) -> Iterator[None]:
    """A ValueError is answered with status 400, without the path of the session's folder."""
    try:
        yield
    except ValueError as error:
        raise HTTPException(400, without_path(str(error), folder)[:800]) from error


def guard_of(hosts: Sequence[str] | None):
    """Refuse other sites' requests and bodies that are too large, and log what was answered, without any name."""

    async def guard(request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.monotonic()
        response = _refusal(request, hosts) or await call_next(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "unknown path")
        logger.info("%s %s %d %.0f ms", request.method, path, response.status_code, 1000 * (time.monotonic() - started))
        return response

    return guard


def _refusal(request: Request, hosts: Sequence[str] | None) -> Response | None:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if hosts is not None and urlsplit(f"//{host}").hostname not in hosts:
        return _error(421, "this server is reached as 127.0.0.1 or localhost only")
    if origin is not None and urlsplit(origin).netloc != host:
        return _error(403, "requests of other sites are refused")
    if request.method in ("POST", "PUT", "PATCH", "DELETE") and not UPLOADS.fullmatch(request.url.path):
        if "transfer-encoding" in request.headers:
            return _error(411, "send the body with a Content-Length")
        if int(request.headers.get("content-length") or 0) > LARGEST_BODY:
            return _error(413, f"the body has more than {LARGEST_BODY} bytes")
    return None


def _error(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, {**HEADERS, "Connection": "close"})


async def invalid(request: Request, error: Exception) -> JSONResponse:
    """The first fault of a body, in one sentence."""
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"] if part not in ("body", "query"))[:100]
    return JSONResponse({"detail": f"{where or 'body'}: {fault['msg']}"[:400]}, 422)


async def full(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "5"})
