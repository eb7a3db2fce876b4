"""The modules that a saved pipeline's components are classes of.

`DiffusionPipeline.from_pretrained` refuses a Hub repository whose components are classes of an installed package
(it wants their code inside the repository), and reads a local folder only if the modules of those classes have been
imported. So a pipeline of ours is loaded in three steps: snapshot (`autoencoder.pretrained`), import of the modules
that it names, local folder. No code ever comes from a repository.
"""

import importlib
import json
import os
from pathlib import Path

PACKAGES = ("autoencoder", "diffusion", "guidance")  # whose classes may be components; imported when one is


def import_component_modules(folder: str | os.PathLike[str]) -> None:
    """Import the modules of this project that a saved pipeline's components are classes of.

    All names are checked before the first import: a `model_index.json` comes from elsewhere and must not choose
    which code runs.

    Args:
        folder: A folder written by a pipeline's `save_pretrained`.
    Raises: ValueError: If `model_index.json` is missing or unreadable, or names a library other than Diffusers and
        the packages of this project, or a module that this version of them does not have.
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
        if library.split(".")[0] not in PACKAGES:
            raise ValueError(
                f"{path}: component {component!r} is from library {library!r}, expected diffusers or a module of "
                f"{', '.join(PACKAGES)}; load only pipelines saved by this project"
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
