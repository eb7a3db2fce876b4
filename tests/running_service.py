"""The autoencoder's service on a real socket, in a thread of the test's process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from running_app import serving

from autoencoder.identity import IdentityAutoencoder
from autoencoder.kl import AutoencoderKL3D
from autoencoder.service.app import Limits, create_app
from autoencoder.service.served_model import ServedAutoencoder


def tiny_autoencoder(**settings: Any) -> AutoencoderKL3D:
    """Factor 4, 2 latent channels, fixed weights, with latent statistics."""
    torch.manual_seed(0)
    statistics: dict[str, Any] = {"latents_mean": [0.1, -0.2], "latents_std": [0.5, 2.0]}
    return AutoencoderKL3D((4, 8), 1, 2, **(statistics | settings)).eval()


class GatedAutoencoder(IdentityAutoencoder):
    """Computes nothing until `gate` is set; `started` tells that the worker is in it, `batches` what came."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.started = threading.Event(), threading.Event()
        self.batches: list[torch.Tensor] = []

    def encode(self, sample: torch.Tensor, return_dict: bool = True) -> Any:
        self.batches.append(sample.clone())
        self.started.set()
        assert self.gate.wait(30)
        return super().encode(sample, return_dict)


@contextmanager
def running(
    model: Any, limits: Limits | None = None, token: str | None = None, max_voxels: int = 2**24
) -> Iterator[str]:
    """The URL of a service of this model."""
    app = create_app(ServedAutoencoder(model, max_voxels=max_voxels), limits, token, {"revision": None})
    with serving(app) as url:
        yield url
