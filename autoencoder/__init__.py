"""Stage 1: ct_norm <-> latent.

- kl, vq, identity: the autoencoders, of one interface; aligned_model: what all models of this project are loaded by
- stage_one: one training step with all losses
- latents: statistics and standardisation; latent_dataset: what stage 2 trains on
- tiling: whole volumes in bounded memory
- loading, hub: a model by folder, repository or URL; remote: RemoteAutoencoder, the client of the service
- networks/: what the models are built of; losses/: of both stages; service/: the autoencoder over HTTP
"""

from typing import TYPE_CHECKING

from foundation.lazy import lazy_exports

if TYPE_CHECKING:
    from autoencoder.identity import IdentityAutoencoder
    from autoencoder.kl import AutoencoderKL3D
    from autoencoder.vq import VQAutoencoder3D
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "AutoencoderKL3D": "autoencoder.kl",
            "IdentityAutoencoder": "autoencoder.identity",
            "VQAutoencoder3D": "autoencoder.vq",
        },
    )


__all__ = ["AutoencoderKL3D", "IdentityAutoencoder", "VQAutoencoder3D"]
