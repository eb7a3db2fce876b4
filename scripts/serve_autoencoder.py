"""Serve a trained autoencoder over HTTP.

uv run scripts/serve_autoencoder.py --model runs/vae/model
LESION_DIFFUSION_TOKEN=... uv run scripts/serve_autoencoder.py --model owner/name --host 0.0.0.0

Clients are `RemoteAutoencoder(url)` and Diffusers' remote_encode and remote_decode. SIGTERM and Ctrl-C finish the
accepted requests. Give the token in the environment: the list of processes does not show it there.
"""

import logging
from dataclasses import dataclass

from foundation.config import SHIPPED_PIPELINE, ModelSource, launch, read_arguments


@dataclass(frozen=True)
class ServeConfig:
    """The service.

    Attributes:
        model: Folder or Hugging Face Hub repository of the autoencoder, or of a pipeline that has one; or the name of a
            shipped pipeline.
        host: Address to listen on; an address that other machines can reach needs a token.
        port: Port; 0 takes a free one.
        token: Token that clients must send; null takes the environment variable LESION_DIFFUSION_TOKEN.
        max_batch: Most volumes computed together.
        max_batch_voxels: Most CT voxels of several requests computed together. null is 32³ on a CPU, where
            larger batches take longer than single requests, and max_voxels on a GPU.
        max_wait_ms: How long a request waits for others to be computed with.
        max_voxels: Most CT voxels of one request.
        max_queue: Most requests that wait; beyond it the answer is 503 with Retry-After.
        dtype: Type in which the model computes: float32, float16 or bfloat16.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads; null takes the default of `foundation.threads`.
        revision: Branch, tag or commit of a Hub repository.
        verbose: Log one line per request.
    """

    model: ModelSource = SHIPPED_PIPELINE
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    max_batch: int = 8
    max_batch_voxels: int | None = None
    max_wait_ms: float = 2.0
    max_voxels: int = 2**24
    max_queue: int = 64
    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    revision: str | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_batch_voxels", "max_voxels", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}, expected at least 1")
        if not 0 <= self.max_wait_ms <= 1000:
            raise ValueError(f"max_wait_ms {self.max_wait_ms}, expected 0 to 1000")


ARGUMENTS = read_arguments(ServeConfig, __name__)

from autoencoder.loading import autoencoder_folder, load_autoencoder, revision_of, weights_sha256
from autoencoder.service.app import Limits, create_app
from autoencoder.service.memory import keep_freed_memory
from autoencoder.service.served_model import ServedAutoencoder
from autoencoder.service.server import bind, checked_token, serve
from autoencoder.service.wire import parse_dtype
from foundation.device import torch_device

CPU_BATCH_VOXELS = 32**3


def main(config: ServeConfig) -> None:
    """Check, bind, load, serve."""
    token = checked_token(config.token, config.host)
    dtype = parse_dtype(config.dtype)
    device = torch_device(config.device)
    joined_voxels = config.max_batch_voxels or (CPU_BATCH_VOXELS if device.type == "cpu" else config.max_voxels)
    limits = Limits(config.max_batch, joined_voxels, config.max_wait_ms / 1000, config.max_queue)
    logging.basicConfig(
        level=logging.INFO if config.verbose else logging.WARNING, format="%(asctime)s %(levelname)s %(message)s"
    )
    listener = bind(config.host, config.port)
    keep_freed_memory()

    folder = autoencoder_folder(config.model, config.revision)
    served = ServedAutoencoder(load_autoencoder(folder), device, dtype, config.max_voxels)
    identity = {"revision": revision_of(folder), "weights_sha256": weights_sha256(folder)}
    app = create_app(served, limits, token, identity)

    listener.listen()  # whoever reads the next line may connect
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {type(served.model).__name__} on {device} at {url}{' (token required)' * bool(token)}", flush=True)
    serve(app, listener)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
