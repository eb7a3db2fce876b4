"""Stage 1: ct_norm <-> latent.

- kl, vq, identity: the autoencoders, of one interface; aligned_model: what all models of this project are loaded by
- stage_one: one training step with all losses
- latents: statistics and standardisation; latent_dataset: what stage 2 trains on
- tiling: whole volumes in bounded memory
- loading, hub: a model by folder, repository or URL; remote: RemoteAutoencoder, the client of the service
- networks/: what the models are built of; losses/: of both stages; service/: the autoencoder over HTTP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoencoder.identity import IdentityAutoencoder
    from autoencoder.kl import AutoencoderKL3D
    from autoencoder.vq import VQAutoencoder3D
else:

    def __getattr__(name: str) -> Any:
        """Import a public class when it is first asked for (PEP 562), so that a config needs no torch."""
        if name not in MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(MODULES[name]), name)


MODULES = {
    "AutoencoderKL3D": "autoencoder.kl",
    "IdentityAutoencoder": "autoencoder.identity",
    "VQAutoencoder3D": "autoencoder.vq",
}

__all__ = ["AutoencoderKL3D", "IdentityAutoencoder", "VQAutoencoder3D"]
