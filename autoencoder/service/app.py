"""The autoencoder over HTTP: the protocol of Diffusers' remote autoencoders, with health, model info and metrics.

POST /encode and POST /decode take a tensor's bytes, with `shape` and `dtype` as query parameters, and answer a tensor's
bytes with `shape` and `dtype` as headers; every error is JSON, {"detail": one sentence}. Stock clients:
`diffusers.utils.remote_utils.remote_encode` and `remote_decode`. Memory is bounded: see `Limits`.
"""

import asyncio
import json
import logging
import math
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from autoencoder.service.batching import Batcher, Job, QueueFull
from autoencoder.service.metrics import ServiceMetrics
from autoencoder.service.request import check_authorization, parse_task
from autoencoder.service.served_model import KINDS, Answer, ServedAutoencoder, Task, TooLargeError
from autoencoder.service.wire import byte_count, dtype_name

logger = logging.getLogger(__name__)
PATHS = "POST /encode, POST /decode, GET /health, GET /info, GET /metrics"
CHUNK_BYTES = 2**18  # an answer is handed to the connection in such parts, so that a slow reader holds one of them


@dataclass(frozen=True)
class Limits:
    """What the service accepts. The most memory that clients can hold is a few times 4 bytes * max_held_voxels.

    Attributes:
        max_batch: Most volumes of joined requests.
        max_batch_voxels: Most CT voxels of joined requests. On one CPU core, joined 16³ volumes take less than half
            the time each, 32³ the same, 48³ a fifth more: what is larger than the caches gains nothing.
        max_wait_s: How long a request waits for companions.
        max_queue: Most requests that wait for the model; above it the answer is 503 with Retry-After.
        max_held: Most requests held at all, also those that are being read or answered.
        transfer_s: Time to send a request, or to take an answer, beside `transfer_bytes_per_s`.
        transfer_bytes_per_s: Slowest client that is served.
    """

    max_batch: int = 8
    max_batch_voxels: int = 2**24
    max_wait_s: float = 0.002
    max_queue: int = 64
    max_held: int = 128
    transfer_s: float = 15.0
    transfer_bytes_per_s: float = 2.0**19

    def time_for(self, size: int) -> float:
        """Seconds that a transfer of `size` bytes may take."""
        return self.transfer_s + size / self.transfer_bytes_per_s


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is left to be told
    """The client closed its connection."""


class AutoencoderService:
    """Queue, limits and metrics around one model; `create_app` gives it paths."""

    def __init__(self, served: ServedAutoencoder, limits: Limits, token: str | None) -> None:
        self.served, self.limits, self.token = served, limits, token
        self.queue_voxels = 4 * served.max_voxels
        self.held_voxels_limit = 2 * self.queue_voxels
        self.held, self.held_voxels = 0, 0
        self.metrics = ServiceMetrics()
        self.batcher = Batcher(
            self._run,
            limits.max_batch,
            limits.max_wait_s,
            max_batch_voxels=min(limits.max_batch_voxels, served.max_voxels),
            max_jobs=limits.max_queue,
            max_voxels=self.queue_voxels,
        )
        self.metrics.watch(self.batcher, lambda: self.held)

    def _run(self, kind: str, tasks: list[Task]) -> list[Answer | ValueError]:
        with self.metrics.batch(kind, sum(task.shape[0] for task in tasks)):
            return self.served.run(kind, tasks)

    @contextmanager
    def hold(self, voxels: int) -> Iterator[None]:
        """Count a request from before its body is read until its answer is sent; QueueFull where they are too many."""
        self.batcher.check_room(voxels)
        if self.held >= self.limits.max_held or self.held_voxels + voxels > self.held_voxels_limit:
            raise QueueFull(math.ceil(self.limits.transfer_s))
        self.held, self.held_voxels = self.held + 1, self.held_voxels + voxels
        try:
            yield
        finally:
            self.held, self.held_voxels = self.held - 1, self.held_voxels - voxels

    async def answer(self, kind: str, request: Request, send: Send) -> int:
        """Read, compute and answer one request.

        Returns: The HTTP status that was sent; 499 if the client had gone.
        Raises: HTTPException: For everything that is to be answered as an error, in one sentence.
        """
        check_authorization(request.headers.get("authorization"), self.token)
        try:
            task = parse_task(kind, request.query_params, self.served.config)
            voxels = self.served.voxels_of(task)
            size = byte_count(task.shape, task.dtype)
            declared = request.headers.get("content-length", str(size))
            if declared != str(size):
                raise ValueError(f"body of {declared[:20]} bytes, expected {size} for this shape and dtype")
            with self.hold(voxels):
                task.body = await read_body(request.receive, size, self.limits.time_for(size))
                rows, shape = task.shape[0], task.shape[2:]
                future = self.batcher.submit(Job(kind, shape, rows, voxels, task))
                answer = await unless_gone(future, request.receive)
                return await send_answer(answer, send, self.limits.time_for(answer.body.nbytes))
        except ClientGone:
            return 499
        except TimeoutError as error:
            raise HTTPException(408, str(error), {"Connection": "close"}) from error
        except TooLargeError as error:
            raise HTTPException(413, str(error)) from error
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        except QueueFull as error:
            raise HTTPException(503, str(error), {"Retry-After": str(error.retry_after_s)}) from error


class TensorEndpoint:
    """ASGI endpoint of one kind; it counts and logs what the service answers."""

    def __init__(self, service: AutoencoderService, kind: str) -> None:
        self.service, self.kind = service, kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), 500
        try:
            status = await self.service.answer(self.kind, Request(scope, receive), send)
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            seconds = time.monotonic() - started
            self.service.metrics.answered(self.kind, status, seconds)
            logger.info("POST /%s %d %.1f ms", self.kind, status, 1000 * seconds)


def create_app(
    served: ServedAutoencoder,
    limits: Limits | None = None,
    token: str | None = None,
    identity: Mapping[str, Any] | None = None,
) -> FastAPI:
    """The service as an ASGI application; its worker thread starts here and stops, all work done, with the app.

    Args:
        served: The model.
        limits: What is accepted; None for the defaults.
        token: Asked for by every path but /health; None asks for nothing.
        identity: What /info says about where the model comes from, for example its revision.
    """
    limits = limits or Limits()
    service = AutoencoderService(served, limits, token)
    info = {**describe(served, limits), **(identity or {})}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.batcher.close)

    async def authorized(request: Request) -> None:
        check_authorization(request.headers.get("authorization"), token)

    app = FastAPI(lifespan=lifespan, openapi_url=None, redirect_slashes=False)
    app.state.service = service
    app.add_exception_handler(StarletteHTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    for kind in KINDS:
        app.router.routes.append(Route(f"/{kind}", TensorEndpoint(service, kind), methods=["POST"]))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/info", dependencies=[Depends(authorized)])
    async def model_info() -> dict[str, Any]:
        return info

    @app.get("/metrics", dependencies=[Depends(authorized)])
    async def metrics() -> Response:
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def describe(served: ServedAutoencoder, limits: Limits) -> dict[str, Any]:
    """The model and the limits, as JSON types; what `RemoteAutoencoder` needs to stand in for the model."""
    config = {key: value for key, value in served.config.items() if not key.startswith("_")}
    return {
        "class": type(served.model).__name__,
        "config": json.loads(json.dumps(config)),
        "factor": served.factor,
        "decoder_margin": served.model.decoder_margin,
        "encoder_margin": served.model.encoder_margin,
        "is_local": served.model.is_local,
        "dtype": dtype_name(served.dtype),
        "max_voxels": served.max_voxels,
        **asdict(limits),
        "version": version("lesion-diffusion"),
    }


async def read_body(receive: Receive, size: int, limit_s: float) -> bytearray:
    """Read `size` bytes; memory grows with what has come, not with what was announced.

    Raises:
        ValueError: If the body is shorter or longer; the rest of a longer one is not read.
        TimeoutError: If it takes longer than `limit_s`.
        ClientGone: If the client closes the connection.
    """
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(limit_s):
            while more and len(body) <= size:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                body += message.get("body", b"")
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise TimeoutError(f"{len(body)} of {size} bytes came in {limit_s:.0f} s; send the body faster") from error
    if len(body) != size:
        raise ValueError(f"body of {len(body)}{' or more' * more} bytes, expected {size} for this shape and dtype")
    return body


async def unless_gone(future: Future[Any], receive: Receive) -> Any:
    """The future's result; the future is cancelled, and ClientGone raised, if the client goes first.

    The worker's own future is cancelled here and now: asyncio would pass it on at the loop's next turn, and the worker
    may have taken the job by then.
    """

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watch, answer = asyncio.ensure_future(gone()), asyncio.wrap_future(future)
    try:
        await asyncio.wait({answer, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise ClientGone
        return answer.result()
    finally:
        watch.cancel()
        future.cancel()
        answer.cancel()


async def send_answer(answer: Answer, send: Send, limit_s: float) -> int:
    """Send an answer in parts, each when the connection has room for it.

    Returns: 200; or 499 if the client did not take it within `limit_s`: the connection is then closed.
    """
    headers = {
        "content-type": "tensor/binary",
        "content-length": str(answer.body.nbytes),
        "shape": json.dumps(answer.shape),
        "dtype": dtype_name(answer.dtype),
        **answer.headers,
    }
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    try:
        async with asyncio.timeout(limit_s):
            await send({"type": "http.response.start", "status": 200, "headers": encoded})
            for start in range(0, answer.body.nbytes, CHUNK_BYTES):
                part, more = answer.body[start : start + CHUNK_BYTES], start + CHUNK_BYTES < answer.body.nbytes
                await send({"type": "http.response.body", "body": part, "more_body": more})
    except TimeoutError:
        return 499
    return 200


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException)
    detail = error.detail
    if error.status_code in (404, 405):
        detail = f"{request.method} {request.url.path[:80]} is not served; expected one of {PATHS}"
    return JSONResponse({"detail": detail}, error.status_code, error.headers)


async def _internal_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"the service failed on this request ({type(error).__name__}); see its log"}, 500)
