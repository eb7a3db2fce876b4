"""`RemoteAutoencoder` beside the local model, and what it does when the service does not do its part."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from running_service import running, tiny_autoencoder
from torch.testing import assert_close

from autoencoder.identity import IdentityAutoencoder
from autoencoder.loading import load_autoencoder
from autoencoder.remote import RemoteAutoencoder
from autoencoder.service.app import Limits
from autoencoder.vq import VQAutoencoder3D

SHAPE = (3, 1, 8, 12, 16)
INFO = {
    "config": {"latent_channels": 2, "window_width": 1500.0, "window_level": -400.0},
    "factor": 4,
    "decoder_margin": 3,
    "encoder_margin": 3,
    "max_batch": 8,
    "max_voxels": 10**6,
}


def ct_norm(*shape: int) -> torch.Tensor:
    return 2 * torch.rand(shape or SHAPE, generator=torch.Generator().manual_seed(0)) - 1


MODELS: dict[str, Callable[[], Any]] = {
    "kl": tiny_autoencoder,
    "vq": lambda: VQAutoencoder3D((4, 8), 1, 2, 16, latents_mean=[0.0, 1.0], latents_std=[1.0, 2.0]).eval(),
    "identity": lambda: IdentityAutoencoder(latents_mean=[0.0], latents_std=[1.0]),
}


@pytest.fixture(scope="module", params=list(MODELS))
def pair(request) -> Iterator[tuple[Any, RemoteAutoencoder]]:
    """(local model, the same behind a service)."""
    model = MODELS[request.param]()
    with running(model) as url:
        yield model, load_autoencoder(url)


def test_it_stands_in_for_the_local_model(pair):
    local, remote = pair
    assert remote.factor == local.factor and remote.decoder_margin == local.decoder_margin
    assert remote.encoder_margin == getattr(local, "encoder_margin", 0)
    assert remote.latent_shape(SHAPE) == tuple(local.latent_shape(SHAPE))
    for name in ("window_width", "latent_channels", "latents_mean", "latents_std"):
        assert remote.config[name] == local.config[name] == remote.config.get(name) == getattr(remote.config, name)
    assert remote.config.get("nothing") is None
    assert remote.to("cpu").eval().requires_grad_(False) is remote
    assert (remote.dtype, remote.device) == (torch.float32, torch.device("cpu"))
    assert not list(remote.parameters())
    assert local.gives_gradients and not remote.gives_gradients


@torch.no_grad()
def test_results_equal_the_local_ones(pair):
    local, remote = pair
    sample = ct_norm()
    here, there = local.encode(sample).latent_dist, remote.encode(sample).latent_dist
    for name in ("mean", "std", "logvar"):
        assert torch.equal(getattr(there, name), getattr(here, name))
    assert torch.equal(there.mode(), here.mode())
    draws = [posterior.sample(torch.Generator().manual_seed(1)) for posterior in (here, there)]
    assert torch.equal(*draws)
    decoded = remote.decode(here.mean)
    assert torch.equal(decoded.sample, local.decode(here.mean).sample)
    assert torch.equal(remote.decode(here.mean, return_dict=False)[0], decoded.sample)
    assert torch.equal(remote.encode(sample, return_dict=False)[0].mean, here.mean)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_as_it_was_sent(pair, dtype):
    local, remote = pair
    with torch.no_grad():
        wanted = local.encode(ct_norm().to(dtype).float()).latent_dist.mean
    mean = remote.encode(ct_norm().to(dtype)).latent_dist.mean
    assert mean.dtype == dtype
    assert_close(mean.float(), wanted, rtol=2**-7, atol=0)
    assert remote.decode(mean).sample.dtype == dtype


def test_tensors_that_are_not_contiguous_are_sent_as_they_read(pair):
    local, remote = pair
    sample = ct_norm(3, 1, 16, 12, 8).transpose(2, 4)
    with torch.no_grad():
        assert_close(remote.encode(sample).latent_dist.mean, local.encode(sample).latent_dist.mean)


@pytest.mark.parametrize("limits", [(2, 2**24), (8, 2 * 8 * 12 * 16), (8, 8 * 12 * 16)])
@torch.no_grad()
def test_large_batch_is_sent_in_parts(limits):
    model = tiny_autoencoder()
    with running(model, Limits(max_batch=limits[0]), max_voxels=limits[1]) as url:
        remote = RemoteAutoencoder(url)
        mean = remote.encode(ct_norm(5, 1, 8, 12, 16)).latent_dist.mean
        assert_close(mean, model.encode(ct_norm(5, 1, 8, 12, 16)).latent_dist.mean, rtol=1e-4, atol=1e-5)
        assert_close(remote.decode(mean).sample, model.decode(mean).sample, rtol=1e-4, atol=1e-5)


def test_threads_may_share_it(pair):
    local, remote = pair
    samples = [ct_norm() * scale for scale in torch.linspace(0.1, 1, 12)]
    with ThreadPoolExecutor(6) as pool:
        means = list(pool.map(lambda sample: remote.encode(sample).latent_dist.mean, samples))
    with torch.no_grad():
        for sample, mean in zip(samples, means, strict=True):
            assert_close(mean, local.encode(sample).latent_dist.mean, rtol=1e-4, atol=1e-5)


def test_what_the_service_refuses_is_a_value_error_with_its_sentence(pair):
    _, remote = pair
    for tensor, sentence in [
        (ct_norm(1, 1, 8, 12, 16) / 0, "NaN or infinite"),
        (ct_norm(1, 2, 8, 12, 16), r"2 channels, expected \(B, 1, D, H, W\)"),
        (ct_norm().double(), "'float64', expected one of float32"),
        (ct_norm()[0], "expected .B, C, D, H, W."),
        (ct_norm()[:0], "expected five positive sizes"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            remote.encode(tensor)


def test_gradients_do_not_travel(pair):
    _, remote = pair
    sample = ct_norm().requires_grad_()
    with pytest.raises(ValueError, match="gradient, which cannot travel; load the model locally"):
        remote.encode(sample)
    with torch.no_grad():
        assert remote.encode(sample).latent_dist.mean.shape == remote.latent_shape(SHAPE)


def test_it_cannot_be_saved(pair, tmp_path):
    with pytest.raises(ValueError, match="no weights to save; give the pipeline the local autoencoder"):
        pair[1].save_pretrained(tmp_path / "vae")
    assert not (tmp_path / "vae").exists()


def test_token_comes_from_argument_url_or_environment(monkeypatch):
    with running(IdentityAutoencoder(), token="s3cret%") as url:
        with pytest.raises(ValueError, match="token is missing or wrong") as error:
            RemoteAutoencoder(url.replace("//", "//any:wr0ng@"))
        assert "wr0ng" not in str(error.value)
        RemoteAutoencoder(url, token="s3cret%")
        by_url = RemoteAutoencoder(url.replace("//", "//any:s3cret%25@") + "/")
        assert by_url.url == url
        assert by_url.decode(ct_norm()).sample.shape == SHAPE
        monkeypatch.setenv("LESION_DIFFUSION_TOKEN", "s3cret%")
        load_autoencoder(url)


def test_service_that_is_not_there_is_an_os_error_with_the_url():
    with running(IdentityAutoencoder()) as url:
        remote = RemoteAutoencoder(url, retries=1)
    with pytest.raises(OSError, match=f"{url}/decode: the service cannot be reached.*refused"):
        remote.decode(ct_norm())
    with pytest.raises(OSError, match=f"{url}/info: the service cannot be reached"):
        RemoteAutoencoder(url, retries=0)


@pytest.mark.parametrize("url", ["http://", "https:///x", "ftp://host", "localhost:8000"])
def test_url_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="expected http://host:port of serve_autoencoder"):
        RemoteAutoencoder(url)


Answers = Callable[[str, int], tuple[int, dict[str, str], bytes] | None]


@contextmanager
def scripted(answers: Answers, info: Any = INFO) -> Iterator[tuple[str, list[str]]]:
    """A server that gives /info, and to the n-th POST what `answers(path, n)` says; None breaks the connection."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(200, {}, json.dumps(info).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            asked.append(self.path)
            answer = answers(self.path.split("?")[0], len(asked))
            if answer is None:
                self.close_connection = True
            else:
                self.reply(*answer)

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def decoded(dtype: str = "float32", shape: str = "[1, 1, 4, 8, 12]", count: int = 384) -> tuple[int, dict, bytes]:
    return 200, {"shape": shape, "dtype": dtype}, bytes(4 * count)


LATENT = torch.zeros(1, 2, 1, 2, 3)


@pytest.mark.parametrize("trouble", [(503, {"Retry-After": "0"}, b"{}"), (502, {}, b""), (504, {}, b"<html>"), None])
def test_passing_trouble_is_tried_again(trouble):
    with scripted(lambda path, n: trouble if n < 3 else decoded()) as (url, asked):
        assert RemoteAutoencoder(url).decode(LATENT).sample.shape == (1, 1, 4, 8, 12)
    assert len(asked) == 3


def test_pause_that_the_service_asks_for_is_kept(monkeypatch):
    pauses: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", pauses.append)
    with scripted(lambda path, n: (503, {"Retry-After": "7"}, b"{}") if n == 1 else decoded()) as (url, _):
        RemoteAutoencoder(url).decode(LATENT)
    assert pauses == [7]


def test_lasting_trouble_is_an_os_error_with_the_sentence():
    full = (503, {"Retry-After": "0"}, b'{"detail": "the queue is full"}')
    with (
        scripted(lambda path, n: full) as (url, asked),
        pytest.raises(OSError, match=r"/decode: the queue is full \(status 503\)"),
    ):
        RemoteAutoencoder(url, retries=2).decode(LATENT)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (decoded(shape="[1, 1, 8, 4, 12]"), OSError, r"shape \[1, 1, 8, 4, 12\] and torch.float32, expected"),
        (decoded(dtype="float16"), OSError, "torch.float16, expected"),
        (decoded(dtype="object"), OSError, "expected one of float32"),
        (decoded(count=383), OSError, "body of 1532 bytes, expected 1536"),
        (decoded(count=10**6), OSError, "answers more than"),
        (decoded(shape="x"), OSError, "what is no such tensor"),
        ((200, {}, b""), OSError, "what is no such tensor"),
        ((302, {"Location": "http://127.0.0.1:1/"}, b""), OSError, r"Found \(status 302\)"),
        ((400, {}, b'{"detail": "bad shape"}'), ValueError, r"bad shape \(status 400\)"),
        ((404, {}, b"<html>"), ValueError, r"Not Found \(status 404\)"),
        ((500, {}, b'{"detail": 5}'), OSError, r"5 \(status 500\)"),
        ((200, {"Content-Length": "1536", "shape": "[1,1,4,8,12]", "dtype": "float32"}, b"x"), OSError, "broke off"),
    ],
)
def test_answer_is_checked_before_it_is_used(answer, kind, sentence):
    def close_after(path: str, n: int) -> Any:
        return answer[0], {**answer[1], "Connection": "close"}, answer[2]

    with scripted(close_after) as (url, _), pytest.raises(kind, match=sentence) as error:
        RemoteAutoencoder(url, retries=0, read_s=1.0).decode(LATENT)
    assert str(error.value).startswith(f"{url}/decode: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("info", [[], {}, "x", {**INFO, "factor": "4"}, {**INFO, "config": {}}, {**INFO, "config": 1}])
def test_server_that_is_no_autoencoder_service_is_refused(info):
    with (
        scripted(lambda path, n: None, info) as (url, _),
        pytest.raises(OSError, match="no autoencoder service of this project"),
    ):
        RemoteAutoencoder(url)
