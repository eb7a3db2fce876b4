"""Open a trained autoencoder of any kind by its folder, its Hub repository, or the URL of a service."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from autoencoder.identity import IdentityAutoencoder
from autoencoder.kl import AutoencoderKL3D
from autoencoder.pretrained import resolve_folder
from autoencoder.remote import RemoteAutoencoder, is_url
from autoencoder.vq import VQAutoencoder3D

AUTOENCODERS = {kind.__name__: kind for kind in (AutoencoderKL3D, VQAutoencoder3D, IdentityAutoencoder)}


def load_autoencoder(source: str | os.PathLike[str], revision: str | None = None, token: str | None = None) -> Any:
    """The autoencoder of a folder, repository or service, in eval mode on the CPU; only safetensors are read.

    Args:
        source: A folder written by `save_pretrained`, a repository "owner/name", or either of a whole pipeline, whose
            autoencoder is taken; or the URL of `scripts/serve_autoencoder.py`, http://host:port.
        revision: Branch, tag or commit of a repository.
        token: Access token of a private repository, or of the service.
    Raises:
        ValueError: If it is none of these, names no autoencoder of this project, or has no weights.
        OSError: If the service cannot be reached, or the Hub cannot and the cache has no snapshot.
    """
    if is_url(source):
        return RemoteAutoencoder(str(source), token)
    folder = autoencoder_folder(source, revision, token)
    config = folder / "config.json"
    try:
        name = json.loads(config.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{config}: not the config of a saved autoencoder; give the folder that train_vae wrote"
        ) from error
    if name not in AUTOENCODERS:
        raise ValueError(f"{config}: class {name!r}, expected one of {', '.join(sorted(AUTOENCODERS))}")
    if not list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: no weights (*.safetensors); train or download the model again")
    return AUTOENCODERS[name].from_pretrained(folder, use_safetensors=True).eval()


def autoencoder_folder(source: str | os.PathLike[str], revision: str | None = None, token: str | None = None) -> Path:
    """The local folder of an autoencoder, or of the one in a pipeline; arguments and errors as `resolve_folder`."""
    folder = resolve_folder(source, revision, token=token)
    return folder / "vae" if (folder / "model_index.json").is_file() else folder


def revision_of(source: str | os.PathLike[str]) -> str | None:
    """Commit of a Hub snapshot in the local cache, from its path; None for any other folder."""
    path = Path(source).resolve()
    return next((path.parts[i + 1] for i, part in enumerate(path.parts[:-1]) if part == "snapshots"), None)


def weights_sha256(folder: str | os.PathLike[str]) -> str:
    """Content hash of a model's or pipeline's *.safetensors, in the order of their paths: equal weights, equal hash."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*.safetensors")):
        with path.open("rb") as file:
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
    return digest.hexdigest()
