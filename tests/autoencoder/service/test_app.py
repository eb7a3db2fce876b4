"""The service through real sockets: Diffusers' stock clients, concurrent requests, and who may ask."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_decode, remote_encode
from running_service import GatedAutoencoder, running, tiny_autoencoder
from torch import Tensor
from torch.testing import assert_close

from autoencoder.identity import IdentityAutoencoder
from autoencoder.service.app import Limits

SHAPE = (2, 1, 8, 12, 16)
PT = {"output_type": "pt", "return_type": "pt"}
ROUNDING = {torch.float32: 0.0, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # of the answer, relative


def ct_norm(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.rand(shape or SHAPE, generator=torch.Generator().manual_seed(seed)) - 1


def stock_decode(url: str, latent: Tensor, **options: Any) -> Tensor:
    return remote_decode(f"{url}/decode", latent, **PT, **{"do_scaling": False, **options})


def query(tensor: Tensor, **more: Any) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch."), **more}


def post(url: str, path: str, tensor: Tensor, auth: Any = None, **more: Any) -> requests.Response:
    return requests.post(f"{url}/{path}", data=tensor.numpy().tobytes(), params=query(tensor, **more), auth=auth)


@pytest.fixture(scope="module")
def model():
    return tiny_autoencoder()


@pytest.fixture(scope="module")
def url(model):
    with running(model) as address:
        yield address


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@torch.no_grad()
def test_stock_clients_get_what_the_model_gives(url, model, dtype):
    sample = ct_norm().to(dtype)
    wanted = model.encode(sample.float()).latent_dist.mode()
    latent = remote_encode(f"{url}/encode", sample)
    assert latent.dtype == dtype
    assert_close(latent.float(), wanted, rtol=ROUNDING[dtype], atol=0)
    decoded = stock_decode(url, latent)
    assert decoded.dtype == dtype
    assert_close(decoded.float(), model.decode(latent.float()).sample, rtol=ROUNDING[dtype], atol=0)


@pytest.mark.filterwarnings("ignore:.*do_scaling.*:FutureWarning")
@torch.no_grad()
def test_scaling_and_shift_are_those_of_diffusers(url, model):
    sample, scale, shift = ct_norm(), 0.25, -0.5
    mean = model.encode(sample).latent_dist.mode()
    scaled = remote_encode(f"{url}/encode", sample, scaling_factor=scale, shift_factor=shift)
    assert_close(scaled, (mean - shift) * scale)
    restored = remote_decode(f"{url}/decode", scaled, **PT, scaling_factor=scale, shift_factor=shift)
    assert_close(restored, model.decode(mean).sample)
    # do_scaling without a scaling_factor, which this model's config has not either, leaves the shift
    only_shift = remote_decode(f"{url}/decode", mean - shift, **PT, do_scaling=True, shift_factor=shift)
    assert_close(only_shift, model.decode(mean).sample)


@pytest.mark.filterwarnings("ignore:.*do_scaling.*:FutureWarning")
@torch.no_grad()
def test_default_arguments_round_trip_on_the_raw_latent(url, model):
    sample = ct_norm()
    decoded = remote_decode(f"{url}/decode", remote_encode(f"{url}/encode", sample), **PT)
    assert torch.equal(decoded, model.decode(model.encode(sample).latent_dist.mode()).sample)


@pytest.mark.filterwarnings("ignore:.*do_scaling.*:FutureWarning")
def test_do_scaling_without_factors_means_those_of_the_models_config():
    model = IdentityAutoencoder()
    model.register_to_config(scaling_factor=0.5, shift_factor=0.25)
    latent = ct_norm()
    with running(model) as url:
        assert_close(remote_decode(f"{url}/decode", latent, **PT), latent / 0.5 + 0.25)
        assert torch.equal(stock_decode(url, latent), latent)


def test_shape_may_be_one_json_list(url, model):
    sample = ct_norm()
    answer = requests.post(
        f"{url}/encode", data=sample.numpy().tobytes(), params={"shape": str(list(SHAPE)), "dtype": "float32"}
    )
    assert answer.ok and answer.headers["shape"] == "[2, 2, 2, 3, 4]" and answer.headers["dtype"] == "float32"


def test_concurrent_requests_are_joined_and_give_what_they_give_alone(model):
    samples = [ct_norm(1, 1, 8, 12, 16, seed=seed) for seed in range(6)] + [ct_norm(2, 1, 4, 4, 8)]
    with running(model, Limits(max_batch=3, max_wait_s=0.2)) as url:
        with ThreadPoolExecutor(len(samples)) as pool:
            latents = list(pool.map(lambda sample: remote_encode(f"{url}/encode", sample), samples))
        metrics = requests.get(f"{url}/metrics").text
    with torch.no_grad():
        for sample, latent in zip(samples, latents, strict=True):
            assert_close(latent, model.encode(sample).latent_dist.mode(), rtol=1e-4, atol=1e-5)
    assert 'requests_total{kind="encode",status="200"} 7.0' in metrics
    assert 'batch_volumes_bucket{kind="encode",le="1.0"} 0.0' in metrics  # no request was alone
    assert 'batch_volumes_sum{kind="encode"} 8.0' in metrics


def test_bad_request_does_not_harm_those_it_is_joined_with(model):
    bad = ct_norm()
    bad[0, 0, 0, 0, 0] = torch.nan
    with running(model, Limits(max_batch=4, max_wait_s=0.2)) as url, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda sample: post(url, "encode", sample), [bad, ct_norm()]))
    assert [answer.status_code for answer in answers] == [400, 200]
    assert "NaN" in answers[0].json()["detail"]


def test_full_queue_answers_503_and_serves_again_later():
    model, sample = GatedAutoencoder(), ct_norm(1, 1, 4, 6, 8)
    with running(model, Limits(max_batch=1, max_queue=2)) as url, ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(post, url, "encode", sample)]
        assert model.started.wait(30)
        waiting += [pool.submit(post, url, "encode", sample) for _ in range(2)]
        until(lambda: "queue_requests 2.0" in requests.get(f"{url}/metrics").text)
        refused = post(url, "encode", sample)
        model.gate.set()
        assert [future.result(30).status_code for future in waiting] == [200] * 3
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1
        assert "the queue is full; try again in" in refused.json()["detail"]
        assert post(url, "encode", sample).ok


def test_fault_of_the_model_is_a_500_in_json_and_the_service_lives_on(caplog):
    class Faulty(IdentityAutoencoder):
        def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
            if (sample == 1).all():
                raise RuntimeError("out of memory, say")
            return super().encode(sample, return_dict)

    with running(Faulty(), Limits(max_batch=2, max_wait_s=0.2)) as url, ThreadPoolExecutor(2) as pool:
        fault, fine = pool.map(lambda sample: post(url, "encode", sample), [torch.ones(SHAPE), ct_norm()])
        assert fault.status_code == 500 and fine.status_code == 200
        assert fault.json() == {"detail": "the service failed on this request (RuntimeError); see its log"}
        assert post(url, "encode", ct_norm()).ok
        assert 'requests_total{kind="encode",status="500"} 1.0' in requests.get(f"{url}/metrics").text
    assert "out of memory, say" in caplog.text  # the traceback is for the one who runs the service


def test_health_is_answered_while_the_model_is_busy():
    model = GatedAutoencoder()
    with running(model) as url, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(post, url, "encode", ct_norm(1, 1, 4, 6, 8))
        assert model.started.wait(30)
        assert requests.get(f"{url}/health", timeout=10).json() == {"status": "ok"}
        model.gate.set()
        assert busy.result(30).ok


def test_stopping_finishes_what_was_accepted():
    model, sample = GatedAutoencoder(), ct_norm(1, 1, 4, 6, 8)
    with ThreadPoolExecutor(3) as pool:
        with running(model, Limits(max_batch=1)) as url:
            accepted = [pool.submit(post, url, "encode", sample) for _ in range(3)]
            until(lambda: "queue_requests 2.0" in requests.get(f"{url}/metrics").text)
            threading.Timer(0.3, model.gate.set).start()  # after the service was told to stop
        assert [future.result(30).status_code for future in accepted] == [200] * 3


def test_stopping_ends_the_worker():
    def workers() -> int:
        return sum(thread.name == "autoencoder" for thread in threading.enumerate())

    before = workers()
    with running(IdentityAutoencoder()):
        assert workers() == before + 1
    assert workers() == before


def test_info_describes_the_model(url, model):
    info = requests.get(f"{url}/info").json()
    assert info["class"] == "AutoencoderKL3D" and info["factor"] == 4 and info["dtype"] == "float32"
    assert info["decoder_margin"] == model.decoder_margin and info["revision"] is None
    assert info["config"]["latents_std"] == [0.5, 2.0] and info["config"]["window_width"] == 1500.0
    assert info["max_voxels"] == 2**24 and info["max_batch"] == 8 and info["version"]


def test_every_path_but_health_asks_for_the_token(model):
    sample = ct_norm()
    with running(model, token="s3cret:with%colon") as url:
        assert requests.get(f"{url}/health").ok
        for path in ("info", "metrics"):
            assert requests.get(f"{url}/{path}").status_code == 401
            assert requests.get(f"{url}/{path}", headers={"Authorization": "Bearer s3cret:with%colon"}).ok
        for path in ("encode", "decode"):
            answer = requests.post(f"{url}/{path}", params=query(sample), data=b"")
            assert answer.status_code == 401 and "token is missing or wrong" in answer.json()["detail"]
            assert "Bearer" in answer.headers["WWW-Authenticate"]
        for header in (
            *("", "Bearer", "Bearer ", "Bearer wrong", "bearer s3cret", "Basic", "Basic ###", "Basic czNjcmV0"),
            *("Digest s3cret:with%colon", "s3cret:with%colon", "Bearer s3cret:with%colon2", "Bearer \xff\xfe"),
        ):
            assert requests.get(f"{url}/info", headers={"Authorization": header.encode("latin-1")}).status_code == 401


def test_stock_clients_give_the_token_in_the_url_or_in_netrc(model, tmp_path, monkeypatch):
    sample = ct_norm()
    with running(model, token="s3cret:x") as url:
        with_token = url.replace("http://", "http://any:s3cret%3Ax@")
        latent = remote_encode(f"{with_token}/encode", sample)
        assert stock_decode(with_token, latent).shape == SHAPE
        with pytest.raises(RuntimeError, match="token is missing or wrong"):
            remote_encode(f"{url}/encode", sample)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login any password s3cret:x\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert torch.equal(remote_encode(f"{url}/encode", sample), latent)


def until(condition: Any) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")
