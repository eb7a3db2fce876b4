"""`RemoteAutoencoder(url)`: the interface of a local autoencoder, computed by `scripts/serve_autoencoder.py`."""

import json
import math
import os
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from requests.adapters import HTTPAdapter
from torch import Tensor
from urllib3.util.retry import Retry

from autoencoder.service.wire import byte_count, dtype_name, parse_dtype, tensor_from_bytes, tensor_to_bytes

TOKEN_VARIABLE = "LESION_DIFFUSION_TOKEN"
LIMITS = ("max_batch", "max_voxels")
MAX_DETAIL_BYTES = 2**16  # of an error or of /info


def is_url(source: str | os.PathLike[str]) -> bool:
    """True for http://... and https://..."""
    return str(source).startswith(("http://", "https://"))


class RemoteAutoencoder(ModelMixin, ConfigMixin):
    """An autoencoder on the other side of a URL, for callers that would else hold the model.

    Tensors come back on the device and in the dtype of those that were sent. No gradients travel. A batch that is
    larger than the service's limits is sent in parts. Connection errors and the answers 502, 503 and 504 are tried
    again with growing pauses, or after the pause that the service asks for. Instances may be shared by threads.

    Args:
        url: http://host:port of the service; a password in it (http://any:TOKEN@host) is the token.
        token: The service's; None takes that of the URL, then the environment variable LESION_DIFFUSION_TOKEN.
        connect_s: Time-out of a connection, in seconds.
        read_s: Longest silence of the service, in seconds; the time to compute a request counts.
        retries: How often a request is tried again.
    Raises:
        ValueError: If the URL is none, or the service refuses (a wrong token, for example), with its sentence.
        OSError: If it cannot be reached, or answers something else than this protocol.
    """

    gives_gradients = False  # none travels through `encode` and `decode`

    def __init__(
        self, url: str, token: str | None = None, connect_s: float = 5.0, read_s: float = 300.0, retries: int = 5
    ) -> None:
        super().__init__()
        self.url, password = _without_password(url)
        self._timeout = (connect_s, read_s)
        self._session = requests.Session()
        self._session.auth = _Bearer(token or password or os.environ.get(TOKEN_VARIABLE))
        self._session.headers["Accept-Encoding"] = "identity"
        retry = Retry(
            total=retries,
            read=min(retries, 2),  # also time-outs: a service that is stuck should not be waited for often
            status_forcelist=(502, 503, 504),
            allowed_methods=("GET", "POST"),  # the service keeps no state: asking twice does no harm
            backoff_factor=0.25,
            backoff_jitter=0.25,
            raise_on_status=False,
            retry_after_max=int(read_s),
        )
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=32))
        self.info: dict[str, Any] = self._read_info()
        self.register_to_config(**self.info["config"])
        self.factor = self.info["factor"]
        self.encoder_margin, self.decoder_margin = self.info["encoder_margin"], self.info["decoder_margin"]
        self.is_local = bool(self.info.get("is_local", False))
        self.register_buffer("_anchor", torch.zeros(1))  # carries device and dtype: there are no parameters

    def encode(self, sample: Tensor, return_dict: bool = True) -> Any:
        """ct_norm (B, 1, D, H, W) -> `AutoencoderKLOutput` whose `latent_dist` is that of the local model.

        Raises:
            ValueError: If the service refuses the tensor, with its sentence, or a gradient would be lost.
            OSError: If the service fails or cannot be reached.
        """
        latent = self.latent_shape(_shape(sample, "encode"))
        shape = (2 * latent[1], *latent[2:])
        parts, headers = self._send("encode", sample, math.prod(sample.shape[2:]), shape, {"posterior": "true"})
        deterministic = {value.get("deterministic") for value in headers} == {"true"}
        posterior = DiagonalGaussianDistribution(parts, deterministic=deterministic)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True) -> Any:
        """latent (B, C, d, h, w) -> `DecoderOutput.sample`, ct_norm (B, 1, fd, fh, fw); errors as of `encode`."""
        shape = (1, *[size * self.factor for size in _shape(z, "decode")[2:]])
        ct_norm, _ = self._send("decode", z, math.prod(shape), shape, {"output_type": "pt"})
        return DecoderOutput(sample=ct_norm) if return_dict else (ct_norm,)

    def latent_shape(self, ct_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(B, 1, D, H, W) of the CT -> (B, C, d, h, w) of its latent."""
        return (ct_shape[0], self.config["latent_channels"], *[size // self.factor for size in ct_shape[2:]])

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Raises ValueError: the weights are the service's."""
        raise ValueError(
            f"{self.url}: a remote autoencoder has no weights to save; give the pipeline the local autoencoder first, "
            "pipeline.register_modules(vae=load_autoencoder(folder))"
        )

    def _send(
        self, path: str, tensor: Tensor, voxels: int, shape: tuple[int, ...], query: dict[str, str]
    ) -> tuple[Tensor, list[Any]]:
        """The answers of all parts of a batch, joined, and their headers; `shape` is that of one answered volume."""
        if tensor.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{path}: the tensor asks for a gradient, which cannot travel; load the model locally")
        max_batch, max_voxels = (self.info[name] for name in LIMITS)
        rows = min(max_batch, max_voxels // max(voxels, 1))
        answers, headers = [], []
        for part in tensor.split(max(rows, 1)):
            parameters: dict[str, Any] = {"shape": list(part.shape), "dtype": dtype_name(part.dtype), **query}
            answer, header = self._post(path, part, parameters, (len(part), *shape))
            answers.append(answer.to(tensor.device))
            headers.append(header)
        return (answers[0] if len(answers) == 1 else torch.cat(answers)), headers

    def _post(
        self, path: str, tensor: Tensor, parameters: dict[str, Any], shape: tuple[int, ...]
    ) -> tuple[Tensor, Any]:
        body = bytes(tensor_to_bytes(tensor))
        size = byte_count(shape, tensor.dtype)
        content, headers = self._request("POST", path, size, params=parameters, data=body)
        try:
            answered = json.loads(headers["shape"]), parse_dtype(headers["dtype"])
            if answered != (list(shape), tensor.dtype):
                raise ValueError(f"shape {answered[0]} and {answered[1]}, expected {list(shape)} and {tensor.dtype}")
            return tensor_from_bytes(bytearray(content), shape, tensor.dtype), headers
        except (KeyError, ValueError) as error:
            raise OSError(f"{self.url}/{path}: answered what is no such tensor ({error})") from error

    def _read_info(self) -> dict[str, Any]:
        content, _ = self._request("GET", "info", MAX_DETAIL_BYTES)
        try:
            info = json.loads(content)
            numbers = [info[name] for name in ("factor", "encoder_margin", "decoder_margin", *LIMITS)]
            numbers += [info["config"]["latent_channels"]]
            if not all(isinstance(number, int) for number in numbers):
                raise ValueError(f"its numbers are {numbers}")
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(
                f"{self.url}: no autoencoder service of this project ({error}); give the URL that serve_autoencoder "
                "prints"
            ) from error
        return info

    def _request(self, method: str, path: str, most_bytes: int, **options: Any) -> tuple[bytes, Any]:
        """One request, tried again where that helps; never more than `most_bytes` of its answer are read."""
        url = f"{self.url}/{path}"
        try:
            with self._session.request(
                method, url, timeout=self._timeout, allow_redirects=False, stream=True, **options
            ) as response:
                content = _read(response, max(most_bytes, MAX_DETAIL_BYTES))
        except requests.RequestException as error:
            raise OSError(f"{url}: the service cannot be reached or broke off ({_cause(error)})") from error
        if response.status_code == 200:
            return content, response.headers
        message = f"{url}: {_detail(content) or response.reason} (status {response.status_code})"
        raise (ValueError if 400 <= response.status_code < 500 else OSError)(message)


class _Bearer(requests.auth.AuthBase):
    """Sends the token; being an auth object, it also keeps requests from looking for one in .netrc."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: Any) -> Any:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _shape(tensor: Tensor, name: str) -> tuple[int, ...]:
    if tensor.ndim != 5:
        raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected (B, C, D, H, W)")
    return tuple(tensor.shape)


def _read(response: requests.Response, most_bytes: int) -> bytes:
    parts, length = [], 0
    for part in response.iter_content(2**18):
        parts.append(part)
        length += len(part)
        if length > most_bytes:
            raise requests.RequestException(f"it answers more than {most_bytes} bytes")
    return b"".join(parts)


def _detail(content: bytes) -> str:
    """The sentence of an error."""
    try:
        return str(json.loads(content)["detail"])[:1000]
    except (ValueError, TypeError, KeyError):
        return ""


def _cause(error: BaseException) -> str:
    """The last words of a chain of nested errors."""
    while error.args and isinstance(getattr(error.args[0], "reason", error.args[0]), BaseException):
        error = getattr(error.args[0], "reason", error.args[0])
    return str(error).split(": ", 1)[-1][:300]


def _without_password(url: str) -> tuple[str, str | None]:
    """(URL without user, password, query and trailing slash; the password)."""
    parts = urlsplit(url)
    if not is_url(url) or not parts.hostname:
        raise ValueError(f"url {url[:80]!r}, expected http://host:port of serve_autoencoder")
    host = parts.netloc.rpartition("@")[2]
    password = unquote(parts.password) if parts.password else None
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", "")), password
