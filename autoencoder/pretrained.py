"""Where a saved model comes from: a local folder, the models that came with the package, or the Hugging Face Hub."""

import os
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from foundation.atomic import recover
from foundation.config import SHIPPED_PIPELINE
from foundation.shipped import shipped

SNAPSHOT_PATTERNS = ["*.json", "*.safetensors", "*.md"]  # also in subfolders; no pickles and no code


def resolve_folder(
    repo_or_folder: str | os.PathLike[str],
    revision: str | None = None,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Local folder of a saved pipeline or model, taken from the Hub when `repo_or_folder` is no folder.

    Without a network (or with `HF_HUB_OFFLINE=1`) the snapshot in the local cache is used.

    Args:
        repo_or_folder: A folder written by `save_pretrained`, returned as it is, the name of a shipped model, or a
            repository id "owner/name".
        revision: Branch, tag or full commit id; the repository's default branch if None. Not looked at for a folder.
        token: Access token of a private repository; None uses the stored login, False none.
        cache_dir: Root of the cache; None for that of huggingface_hub (`HF_HOME`).
        local_files_only: Never ask the Hub, use the cache only.
        force_download: Download again what the cache has.
    Returns: The folder, holding JSON, safetensors and Markdown files only if it is a snapshot.
    Raises:
        ValueError: If it is neither a folder nor a repository, or the repository has no such revision.
        OSError: If the Hub refuses or cannot be reached and the cache has no complete snapshot.
    """
    folder = Path(repo_or_folder)
    recover(folder)
    if folder.is_dir():
        return folder
    own = shipped_folder(str(repo_or_folder))
    if own is not None:
        return own
    if str(repo_or_folder) == SHIPPED_PIPELINE:
        raise ValueError(
            f"{SHIPPED_PIPELINE}: the shipped model is not in this installation; install the package with its models, "
            "or pass a folder or a repository 'owner/name' as --pipeline"
        )
    name = f"{str(repo_or_folder)!r}"
    if "/" not in str(repo_or_folder):
        raise ValueError(
            f"{name}: neither a folder, nor a shipped pipeline ({', '.join(shipped_names()) or 'none'}), nor a "
            "repository 'OWNER/NAME' on the Hub; check the spelling"
        )
    try:
        snapshot = snapshot_download(
            str(repo_or_folder),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=bool(local_files_only),
            force_download=force_download,
            allow_patterns=SNAPSHOT_PATTERNS,
        )
    except HFValidationError as error:
        raise ValueError(
            f"{name}: no such folder, and not a repository id; expected a folder or 'OWNER/NAME', check the spelling"
        ) from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{name}: no such folder, and no such repository on the Hub; check the spelling, or pass token=... "
            "(`hf auth login`) if the repository is private"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(
            f"revision {revision!r}: not in repository {name}; expected one of its branches, tags or full commit ids"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        wanted = f"{name} at revision {revision!r}" if revision else name
        raise OSError(
            f"{wanted}: cannot be downloaded and has no complete snapshot in the cache; load it once with a network "
            f"and without HF_HUB_OFFLINE or local_files_only, or pass a local folder. Cause: {error}"
        ) from error
    return Path(snapshot)


def shipped_names() -> list[str]:
    """Names of the models that came with the package."""
    return sorted(path.parent.name for path in shipped("models").glob("*/model_index.json"))


def shipped_folder(name: str) -> Path | None:
    """Folder of a model that came with the package, in a checkout or installed; None if there is none of that name."""
    folder = shipped("models") / name
    return folder if name and (folder / "model_index.json").is_file() else None
