"""What clients can do wrong, or do to harm: each gets one sentence, and the service serves on."""

import asyncio
import http.client
import json
import random
import socket
import string
import time
from concurrent.futures import Future
from contextlib import closing, suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_encode
from PIL import Image
from running_service import GatedAutoencoder, running, tiny_autoencoder

from autoencoder.service import server as service_server
from autoencoder.service.app import ClientGone, Limits, unless_gone

SHAPE = (1, 1, 8, 12, 16)
BODY = bytes(4 * 8 * 12 * 16)
GOOD: dict[str, Any] = {"shape": list(SHAPE), "dtype": "float32"}
LATENT: dict[str, Any] = {"shape": [1, 2, 2, 3, 4], "dtype": "float32"}
LATENT_BODY = bytes(4 * 2 * 2 * 3 * 4)


@pytest.fixture(scope="module")
def url():
    with running(tiny_autoencoder(), Limits(transfer_s=1.0, max_held=8), max_voxels=2**14) as address:
        yield address


@pytest.fixture(autouse=True)
def still_serves(url):
    """After every test a good request gets its answer."""
    yield
    assert remote_encode(f"{url}/encode", torch.zeros(SHAPE)).shape == (1, 2, 2, 3, 4)


def refused(answer: requests.Response, status: int, sentence: str) -> None:
    assert answer.status_code == status
    detail = answer.json()["detail"]
    assert sentence in detail and "Traceback" not in detail and "\n" not in detail and len(detail) < 400


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"shape": None}, 400, "shape is missing"),
        ({"dtype": None}, 400, "dtype is missing"),
        ({"shape": [1, 8, 12, 16]}, 400, "shape (1, 8, 12, 16), expected five"),
        ({"shape": [1, 1, 8, 12, -16]}, 400, "expected five positive sizes"),
        ({"shape": [1, 1, 8, 12, 0]}, 400, "expected five positive sizes"),
        ({"shape": [-1, -1, 8, 12, 16]}, 400, "expected five positive sizes"),
        ({"shape": [1, 1, 8, 12, 10**30]}, 400, "expected five integers"),
        ({"shape": [1, 1, 8, 12, 4 * 10**10]}, 413, "expected at most 16384"),
        ({"shape": [1, 1, 32, 32, 32]}, 413, "32768 CT voxels, expected at most 16384; send fewer"),
        ({"shape": [1, 1, 8, 12, 14]}, 400, "divisible by 4; pad or crop"),
        ({"shape": [1, 2, 8, 12, 16]}, 400, "2 channels, expected (B, 1, D, H, W)"),
        ({"shape": [2, 1, 8, 12, 16]}, 400, "body of 6144 bytes, expected 12288"),
        ({"dtype": "float16"}, 400, "body of 6144 bytes, expected 3072"),
        ({"dtype": "float64"}, 400, "dtype 'float64', expected one of float32, float16, bfloat16"),
        ({"dtype": ["float32", "float32"]}, 400, "dtype is given more than once"),
        ({"scaling_factor": 0}, 400, "scaling_factor 0"),
        ({"scaling_factor": "nan"}, 400, "expected a finite number"),
        ({"scaling_factor": "1e400"}, 400, "expected a finite number"),
        ({"shift_factor": "x"}, 400, "shift_factor 'x', expected a finite number"),
        ({"scaling_factor": 1e300}, 400, "the result is not finite in torch.float32"),
        ({"shift_factor": 1e300}, 400, "not finite"),
        ({"posterior": "maybe"}, 400, "posterior 'maybe', expected true or false"),
        ({"scaling_facter": 1}, 400, "unknown parameter 'scaling_facter'; known: dtype, posterior, scaling_factor"),
    ],
)
def test_bad_parameters_get_one_sentence(url, changes, status, sentence):
    parameters = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    refused(requests.post(f"{url}/encode", params=parameters, data=BODY), status, sentence)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"output_type": "pil"}, "output_type 'pil': a CT is not a picture; pass output_type=\"pt\""),
        ({"output_type": "mp4"}, 'pass output_type="pt"'),
        ({"partial_postprocess": True}, "partial_postprocess makes uint8 pictures"),
        ({"height": 8, "width": 8}, "packed latents"),
        ({"posterior": True}, "unknown parameter 'posterior'"),
    ],
)
def test_what_a_ct_model_has_not_is_refused(url, more, sentence):
    refused(requests.post(f"{url}/decode", params={**LATENT, **more}, data=LATENT_BODY), 400, sentence)


def test_picture_for_the_stock_encoder_is_refused(url):
    with pytest.raises(RuntimeError, match="shape is missing; send a tensor"):
        remote_encode(f"{url}/encode", Image.new("RGB", (8, 8)))


def test_other_paths_and_methods_get_json(url):
    refused(requests.get(f"{url}/"), 404, "GET / is not served; expected one of POST /encode")
    refused(requests.post(f"{url}/encode/", params=GOOD, data=BODY, allow_redirects=False), 404, "is not served")
    refused(requests.get(f"{url}/decode"), 405, "GET /decode is not served")
    refused(requests.delete(f"{url}/info"), 405, "DELETE /info is not served")


def test_result_beyond_float16_is_refused(url):
    parameters = {**GOOD, "dtype": "float16", "scaling_factor": 1e9}
    refused(requests.post(f"{url}/encode", params=parameters, data=BODY[::2]), 400, "not finite in torch.float16")


def connect(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(length: str | None, more: str = "") -> bytes:
    query = urlencode(GOOD, doseq=True)
    declared = "" if length is None else f"Content-Length: {length}\r\n"
    return f"POST /encode?{query} HTTP/1.1\r\nHost: x\r\n{declared}{more}\r\n".encode()


def answer_of(connection: socket.socket) -> tuple[int, str]:
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read().decode()


@pytest.mark.parametrize("length", ["0", "6143", "6145", "999999999999999999"])
def test_declared_length_that_is_wrong_is_refused_before_the_body(url, length):
    with closing(connect(url)) as connection:
        connection.sendall(head(length))
        status, text = answer_of(connection)
    assert status == 400 and f"body of {length} bytes, expected 6144" in json.loads(text)["detail"]


def test_body_without_a_length_that_never_ends_is_refused_while_it_comes(url):
    with closing(connect(url)) as connection:
        connection.sendall(head(None, "Transfer-Encoding: chunked\r\n"))
        for _ in range(3):
            connection.sendall(b"1000\r\n" + bytes(0x1000) + b"\r\n")
        status, text = answer_of(connection)
    assert status == 400 and "or more bytes, expected 6144" in json.loads(text)["detail"]


def test_chunked_body_of_the_right_length_is_taken(url):
    chunks = (part for part in (BODY[:100], BODY[100:]))
    assert requests.post(f"{url}/encode", params=GOOD, data=chunks).ok


def test_client_that_sends_nothing_is_given_up_and_holds_up_nobody(url):
    with closing(connect(url)) as slow:
        slow.sendall(head("6144"))
        assert requests.post(f"{url}/encode", params=GOOD, data=BODY, timeout=20).ok
        status, text = answer_of(slow)
        assert status == 408 and "0 of 6144 bytes came in 1 s" in json.loads(text)["detail"]
        assert slow.recv(1) == b""  # and the connection is closed


def test_too_many_slow_clients_are_refused_and_forgotten(url):
    slow = [connect(url) for _ in range(8)]
    for connection in slow:
        connection.sendall(head("6144") + b"x")
    until_held(url, 8)
    answer = requests.post(f"{url}/encode", params=GOOD, data=BODY)
    refused(answer, 503, "the queue is full; try again in 1 s")
    assert answer.headers["Retry-After"] == "1"
    assert {answer_of(connection)[0] for connection in slow} == {408}
    until_held(url, 0)


def test_client_that_never_finishes_its_head_is_dropped(url, monkeypatch):
    monkeypatch.setattr(service_server, "HEAD_S", 0.2)
    with closing(connect(url)) as silent, closing(connect(url)) as slow:
        slow.sendall(b"POST /encode HTTP/1.1\r\nHost")
        for connection in (silent, slow):
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


def test_client_that_goes_is_not_computed_for():
    model = GatedAutoencoder()
    with running(model, Limits(max_batch=1)) as url:
        with closing(connect(url)) as first, closing(connect(url)) as second:
            first.sendall(head("6144") + BODY)
            assert model.started.wait(30)
            second.sendall(head("6144") + BODY)
            until_held(url, 2)
            second.close()
            until_held(url, 1)
            model.gate.set()
            assert answer_of(first)[0] == 200
        until_held(url, 0)
        assert len(model.batches) == 1
        assert 'requests_total{kind="encode",status="499"} 1.0' in requests.get(f"{url}/metrics").text


def test_job_is_cancelled_before_anyone_learns_that_its_client_has_gone():
    async def receive():
        return {"type": "http.disconnect"}

    async def cancelled_at_once() -> bool:
        job: Future[None] = Future()
        with pytest.raises(ClientGone):
            await unless_gone(job, receive)
        return job.cancelled()  # not at the loop's next turn: the worker does not wait for it

    assert asyncio.run(cancelled_at_once())


def test_answer_that_is_not_read_holds_up_nobody():
    model = tiny_autoencoder()
    query = urlencode({"shape": [1, 2, 32, 32, 32], "dtype": "float32"}, doseq=True)  # 8 MiB of CT
    body = bytes(4 * 2 * 32**3)
    with running(model, Limits(transfer_s=0.3, transfer_bytes_per_s=2.0**26)) as url:
        with closing(connect(url)) as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.sendall(
                f"POST /decode?{query} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            until_held(url, 1)
            assert requests.post(f"{url}/encode", params=GOOD, data=BODY, timeout=20).ok
            until_held(url, 0)
        assert 'requests_total{kind="decode",status="499"} 1.0' in requests.get(f"{url}/metrics").text


def test_random_requests_are_answered_2xx_or_4xx(url):
    draw = random.Random(0)
    statuses = [fuzz(url, draw) for _ in range(400)]
    assert set(statuses) <= {200, 400, 401, 404, 405, 408, 413, 414, 431}
    assert statuses.count(400) > 100 and statuses.count(200) > 5
    metrics = requests.get(f"{url}/metrics").text
    assert 'status="500"' not in metrics and "held_requests 0.0" in metrics


def fuzz(url: str, draw: random.Random) -> int:
    """One request of random path, method, parameters, headers and body, each of them often right; its status."""
    numbers = ["1", "2", "4", "8", "0", "-4", "16", "1e3", "9" * 30, "NaN", "", "None", "٣", "0x10", "[1]"]
    good = draw.random() < 0.5
    kind = draw.choice(["encode", "decode"])
    shape: list[Any] = list(GOOD["shape"] if kind == "encode" else LATENT["shape"])
    if not good or draw.random() < 0.3:
        shape = [draw.choice(numbers) for _ in range(draw.choice([0, 1, 4, 5, 5, 5, 6]))]
    parameters: dict[str, Any] = {"shape": shape if draw.random() < 0.7 else str(shape)}
    parameters["dtype"] = draw.choice(["float32"] * 6 + ["float16", "bfloat16", "float64", "", "\x00"])
    for name in ("scaling_factor", "shift_factor", "do_scaling", "posterior", "output_type", "image_format", "height"):
        if draw.random() < 0.1:
            parameters[name] = draw.choice([*numbers, "true", "pt", "pil", "jpg"])
    if draw.random() < 0.1:
        parameters["".join(draw.choices(string.printable, k=5))] = "".join(draw.choices(string.printable, k=9))
    body = (BODY if kind == "encode" else LATENT_BODY) if good else draw.randbytes(draw.choice([0, 1, 100, 6144, 9000]))
    if draw.random() < 0.2:
        body = draw.randbytes(len(body))
    headers = {}
    for name in ("Authorization", "Content-Type", "Content-Encoding", "Accept", "Expect", "X-" + "y" * 50):
        if draw.random() < 0.1:
            headers[name] = draw.choice(["", "gzip", "Bearer x", "Basic !!!", "100-continue", "\xe9", "a" * 5000])
    method = "POST" if draw.random() < 0.9 else draw.choice(["GET", "PUT", "OPTIONS", "HEAD", "TRACE", "BREW"])
    path = f"/{kind}" if draw.random() < 0.95 else draw.choice(["/", "/%00", "/../etc", "/encode/x", "/" + "a" * 3000])
    text = urlencode(parameters, doseq=True) if draw.random() < 0.9 else "".join(draw.choices(SAFE, k=40))
    connection = http.client.HTTPConnection(str(urlsplit(url).hostname), urlsplit(url).port, timeout=30)
    with closing(connection):
        connection.request(method, f"{path}?{text}", body, headers)
        response = connection.getresponse()
        content = response.read()
        assert b"Traceback" not in content
        if response.status >= 400 and method != "HEAD":
            assert json.loads(content)["detail"]
        return response.status


SAFE = "abcxyz0123456789&=%[],;+-._~!$'()*:@/?"


def test_bytes_that_are_no_http_are_refused(url):
    draw = random.Random(1)
    for length in (1, 10, 1000, 100_000):
        with closing(connect(url)) as connection:
            connection.sendall(draw.randbytes(length) + b"\r\n\r\n")
            assert connection.recv(12)[9:12] in (b"400", b"")


def until_held(url: str, count: int) -> None:
    """Wait until the service holds so many requests."""
    for _ in range(3000):
        if f"held_requests {count:.1f}" in requests.get(f"{url}/metrics").text:
            return
        time.sleep(0.01)
    raise AssertionError(f"never {count} requests held")
