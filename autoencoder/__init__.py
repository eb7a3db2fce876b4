"""Stage 1: ct_norm <-> latent.

- kl, vq, identity: the autoencoders, with one interface
- aligned_model: the base class of this project's models
- stage_one: one training step with all losses
- latents: statistics and standardisation of latents
- latent_dataset: the encoded dataset that stage 2 trains on
- tiling: whole volumes in bounded memory
- loading, pretrained: load a model from a folder, a Hub repository or a URL
- remote: RemoteAutoencoder, the client of the service
- networks/: building blocks; losses/: losses; service/: the autoencoder over HTTP
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
