"""Local pages: files that a browser loads, and headers that keep it to this server.

A page here has no inline script or style, and calls no other host. The content security policy enforces both.
"""

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def page_app(files: Mapping[str, Path]) -> FastAPI:
    """An application with these files and GET /health; more paths can be added to it.

    Every answer has `HEADERS`. Every error is JSON, {"detail": one sentence}.

    Args:
        files: Path such as "/viewer.js" -> file. They are read now.
    """
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)

    @app.middleware("http")
    async def headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers.update(HEADERS)
        return response

    for path, file in files.items():
        app.get(path)(_answer(file.read_bytes(), f"{TYPES[file.suffix]}; charset=utf-8"))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def limited_body(request: Request, largest: int) -> bytes:
    """The body of a request. Raises HTTPException 413 when it grows beyond `largest` bytes."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > largest:
            raise HTTPException(413, f"the body has more than {largest} bytes", {"Connection": "close"})
    return body


def _answer(content: bytes, kind: str):
    async def answer() -> Response:
        return Response(content, media_type=kind)

    return answer


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path[:80]} is not served"
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"the server failed ({type(error).__name__}); see its log"}, 500, HEADERS)
