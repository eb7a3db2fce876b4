"""The service as its own process: stock clients, how it stops, and with what it does not start."""

import hashlib
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_decode, remote_encode
from forked import PATIENCE_S, expect, start
from running_service import running, tiny_autoencoder

from autoencoder.remote import RemoteAutoencoder
from diffusion.sampling.loading import SamplingConfig, weights_of
from foundation.config import launch, parse_config


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_autoencoder().save_pretrained(folder)
    return folder


@contextmanager
def process(folder: Path, log: Path, *options: str, **variables: str) -> Iterator[tuple[BaseProcess, str]]:
    """The script, and the URL that it prints."""
    argv = ["--model", folder, "--port", "0", "--device", "cpu", *options]
    started = start("serve_autoencoder", argv, log, variables)
    deadline = time.monotonic() + PATIENCE_S
    try:
        while not log.exists() or not (address := re.search(r"http://\S+(?=\s)", log.read_text())):
            assert started.exitcode is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield started, address[0]
    finally:
        started.kill()
        started.join()


@pytest.mark.slow
def test_process_serves_stock_clients_and_finishes_its_work_when_terminated(model_folder, tmp_path):
    sample, local = torch.rand(1, 1, 8, 12, 16), tiny_autoencoder()
    log = tmp_path / "log"
    with process(model_folder, log, "--max-wait-ms", "1000", "--verbose", "true") as (started, url):
        with ThreadPoolExecutor(2) as pool:
            in_flight = [pool.submit(remote_encode, f"{url}/{kind}", sample) for kind in ("encode", "encode")]
            for _ in range(500):  # their batch waits a second for companions
                if "held_requests 2.0" in requests.get(f"{url}/metrics").text:
                    break
                time.sleep(0.01)
            os.kill(started.pid, signal.SIGTERM)
            latents = [future.result(60) for future in in_flight]
        expect(started, log)
    assert "Traceback" not in log.read_text() and log.read_text().count("POST /encode 200") == 2
    with torch.no_grad():
        for latent in latents:
            torch.testing.assert_close(latent, local.encode(sample).latent_dist.mode(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_token_of_the_environment_is_asked_for_and_never_printed(model_folder, tmp_path):
    log = tmp_path / "log"
    with process(model_folder, log, "--verbose", "true", LESION_DIFFUSION_TOKEN="s3cret-token") as (started, url):
        with pytest.raises(ValueError, match="token is missing or wrong"):
            RemoteAutoencoder(url)
        remote = RemoteAutoencoder(url, token="s3cret-token")
        assert len(remote.info["weights_sha256"]) == 64 and remote.info["revision"] is None
        authority = url.replace("http://", "http://any:s3cret-token@")
        options: dict[str, Any] = {"output_type": "pt", "return_type": "pt", "do_scaling": False}
        ct_norm = remote_decode(f"{authority}/decode", torch.zeros(1, 2, 2, 3, 4), **options)
        assert ct_norm.shape == (1, 1, 8, 12, 16)
        os.kill(started.pid, signal.SIGINT)
        expect(started, log)
    printed = log.read_text()
    assert "Traceback" not in printed and "POST /decode 200" in printed and "s3cret" not in printed


def test_training_and_encoding_import_nothing_of_the_service(tmp_path):
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(
        "import sys, scripts.train_vae, scripts.train_ldm, scripts.encode_latents, autoencoder.remote\n"
        "print({'fastapi', 'uvicorn', 'starlette', 'prometheus_client'} & set(sys.modules))\n"
    )
    expect(start(script, [], log), log)
    assert log.read_text().endswith("set()\n")


def test_record_of_inpainting_names_the_replaced_autoencoder_without_its_password(tmp_path):
    with running(tiny_autoencoder(), token="s3cret") as url:
        source = url.replace("http://", "http://any:s3cret@")
        config = SamplingConfig(pipeline=str(tmp_path), out=tmp_path / "out", vae=source)
        weights = weights_of(config, SimpleNamespace(vae=RemoteAutoencoder(source)), tmp_path)
    assert weights == {"pipeline_sha256": hashlib.sha256().hexdigest(), "vae": url, "vae_sha256": None}


def serve(*argv: Any) -> None:
    from scripts.serve_autoencoder import ServeConfig, main

    launch(main, parse_config(ServeConfig, list(map(str, argv))))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--host", "0.0.0.0"), "host '0.0.0.0' can be reached by others, so a token is needed"),
        (("--host", "::"), "so a token is needed; set LESION_DIFFUSION_TOKEN or --token"),
        (("--token", ""), "the token has to be printable ASCII"),
        (("--token", "a b"), "the token has to be printable ASCII"),
        (("--max-batch", "0"), "max_batch 0, expected at least 1"),
        (("--max-wait-ms", "-1"), "max_wait_ms -1.0, expected 0 to 1000"),
        (("--dtype", "float64"), "dtype 'float64', expected one of float32"),
        (("--device", "gpu"), "device 'gpu', expected cpu, or cuda where PyTorch finds a GPU"),
        (("--port", "99999"), "port 99999, expected 0 to 65535"),
        (("--host", "no.such.host.invalid", "--token", "x"), "host 'no.such.host.invalid', port 8000: cannot listen"),
        (
            (),
            "'no folder': neither a folder, nor a shipped pipeline (lung-nodule-small), nor a repository",
        ),
    ],
)
def test_bad_options_end_in_one_line_before_the_model_is_looked_for(monkeypatch, options, sentence):
    monkeypatch.delenv("LESION_DIFFUSION_TOKEN", raising=False)
    port = () if options[:1] == ("--port",) or "no.such.host.invalid" in options else ("--port", "0")
    with pytest.raises(SystemExit) as error:
        serve("--model", "no folder", *options, *port)
    assert sentence in str(error.value) and "\n" not in str(error.value)


def test_occupied_port_is_named():
    from autoencoder.service.server import bind

    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match=r"host '127.0.0.1', port \d+: cannot listen there .*in use"):
            bind("127.0.0.1", taken.getsockname()[1])
