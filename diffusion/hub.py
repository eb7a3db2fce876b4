"""Where a saved pipeline comes from: a local folder, or a snapshot of a repository on the Hugging Face Hub.

`DiffusionPipeline.from_pretrained` refuses a Hub repository whose components are classes of an installed package
(it wants their code inside the repository), and reads a local folder only if the modules of those classes have been
imported. So a pipeline of ours is loaded in three steps: snapshot, import of the modules named in it, local folder.
No code ever comes from a repository.
"""

import importlib
import json
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

SNAPSHOT_PATTERNS = ["*.json", "*.safetensors", "*.md"]  # also in subfolders; no pickles and no code
COMPONENT_PACKAGES = ("autoencoder", "diffusion", "guidance")


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
        repo_or_folder: A folder written by `save_pretrained`, returned as it is, or a repository id "owner/name".
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
    if folder.is_dir():
        return folder
    name = f"{str(repo_or_folder)!r}"
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
            f"{name}: no such folder, and not a repository id; expected a folder or 'owner/name', check the spelling"
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


def import_component_modules(folder: str | os.PathLike[str]) -> None:
    """Import the modules of this project that a saved pipeline's components are classes of.

    All names are checked before the first import: a `model_index.json` comes from elsewhere and must not choose
    which code runs.

    Args:
        folder: A folder written by a pipeline's `save_pretrained`.
    Raises: ValueError: If `model_index.json` is missing or unreadable, or names a library other than Diffusers and
        the packages of `COMPONENT_PACKAGES`, or a module that this version of them does not have.
    """
    path = Path(folder) / "model_index.json"
    if not path.is_file():
        raise ValueError(f"{path}: not found; expected a pipeline's folder, written by its save_pretrained")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        components = {key: value for key, value in index.items() if isinstance(value, list) and key[:1] != "_"}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a JSON object ({error}); save or download the pipeline again") from error

    modules = []
    for component, entry in components.items():
        library = entry[0] if entry else None
        if not isinstance(library, str) or library.split(".")[0] == "diffusers":
            continue  # an empty optional component, a plain list, or Diffusers itself, which is imported
        if library.split(".")[0] not in COMPONENT_PACKAGES:
            raise ValueError(
                f"{path}: component {component!r} is from library {library!r}, expected diffusers or a module of "
                f"{', '.join(COMPONENT_PACKAGES)}; load only pipelines saved by this project"
            )
        modules.append((component, library))
    for component, library in modules:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            if error.name is None or not library.startswith(error.name):
                raise  # a module of ours is there, but one of its own dependencies is not installed
            raise ValueError(
                f"{path}: component {component!r} needs module {library!r}, which this version does not have; "
                "install the version that saved the pipeline"
            ) from error
