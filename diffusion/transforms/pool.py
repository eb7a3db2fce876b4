"""The pool of lesions that training transforms take from: made once, kept in a folder, read by every worker."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from autoencoder.loading import weights_sha256
from autoencoder.pretrained import resolve_folder
from diffusion.attributes import check_attribute, check_compatible
from diffusion.transforms.insertion import PooledLesion
from foundation.claimed_folder import SETTINGS, claim_shared_folder
from foundation.config import SHIPPED_PIPELINE
from foundation.output import check_output
from foundation.text_files import read_json

SHARD = 8  # lesions in a file, and painted at a time
FIRST_WAIT_S = 1800.0  # for the first file of a pool that is made in the background
LOG = "making.log"
VERSION = 1  # of what a file holds

Request = float | str | tuple[float, float]


@dataclass(frozen=True)
class PoolSettings:
    """What a pool is made of; equal settings, equal pool.

    Attributes:
        pipeline: Folder, Hub repository, or the name of a shipped pipeline.
        diameter_mm: Lowest and highest diameter of the spheres that have the lesions' volumes; drawn evenly.
        attributes: Requested of every lesion: a value, or the lowest and the highest, drawn evenly.
        lesions: How many.
        scans: Folder of scans into whose lung the lesions are painted; None paints into chest phantoms.
        steps: Network calls; None takes the pipeline's usual number.
        seed: Of everything random.
    """

    pipeline: str = SHIPPED_PIPELINE
    diameter_mm: tuple[float, float] = (4.0, 20.0)
    attributes: Mapping[str, Request] = field(default_factory=dict)
    lesions: int = 200
    scans: str | None = None
    steps: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.diameter_mm
        if not 0 < low <= high < np.inf:
            raise ValueError(f"diameter_mm {self.diameter_mm}, expected (lowest, highest), above 0")
        if not (isinstance(self.lesions, int) and self.lesions > 0):
            raise ValueError(f"pool {self.lesions!r}, expected a number of lesions above 0, or a pool's folder")
        if self.seed < 0:
            raise ValueError(f"seed {self.seed}, expected at least 0")
        for end in (0, -1):
            check_compatible({name: ends_of(value)[end] for name, value in self.attributes.items()})

    @property
    def shards(self) -> int:
        """Files of the pool."""
        return -(-self.lesions // SHARD)

    def record(self) -> dict[str, Any]:
        """The settings and the hash of the weights, as JSON types."""
        folder = resolve_folder(self.pipeline)
        settings = {**asdict(self), "attributes": dict(self.attributes), "version": VERSION}
        settings["pipeline"] = str(Path(self.pipeline).resolve()) if Path(self.pipeline).is_dir() else self.pipeline
        settings["scans"] = None if self.scans is None else str(Path(self.scans).resolve())
        loaded: dict[str, Any] = json.loads(json.dumps(settings | {"pipeline_sha256": weights_sha256(folder)}))
        return loaded


def ends_of(value: Request) -> tuple[Any, Any]:
    """Lowest and highest value of a request."""
    return (value[0], value[1]) if isinstance(value, tuple | list) else (value, value)


class LesionPool:
    """Lesions to take from, read from the folder of a pool; workers share the file, not the object.

    Args:
        folder: Of :func:`lesion_pool`. It may still be filling: what is there is used.
    Raises: ValueError: If the folder is no pool.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not (self.folder / SETTINGS).is_file():
            raise ValueError(f"{folder}: no pool of lesions ({SETTINGS} is missing); pass a number, or a pool's folder")
        record = read_json(self.folder / SETTINGS)
        self.shards = -(-int(record["lesions"]) // SHARD)
        self._read: list[Path] = []
        self._lesions: list[PooledLesion] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_read": [], "_lesions": []}  # a process that is spawned reads the files itself

    def __len__(self) -> int:
        return len(self.lesions())

    def lesions(self) -> list[PooledLesion]:
        """All lesions that there are, after waiting for the first."""
        waited = 0.0
        while len(self._read) < self.shards:
            for path in sorted(self.folder.glob("[0-9]*.safetensors")):
                if path not in self._read:
                    self._lesions += read_shard(path)
                    self._read.append(path)
            if self._lesions:
                break
            if waited >= FIRST_WAIT_S or len(self._read) == self.shards:
                raise ValueError(f"{self.folder}: no lesion in this pool; see {LOG} in it, and make it again")
            time.sleep(1)
            waited += 1
        return self._lesions

    def draw(self, rng: np.random.Generator) -> PooledLesion:
        """One of them, all alike likely."""
        found = self.lesions()
        return found[int(rng.integers(len(found)))]


def lesion_pool(
    settings: PoolSettings,
    cache_dir: str | os.PathLike[str] | None = None,
    background: bool = False,
    device: str = "auto",
) -> LesionPool:
    """The pool with these settings, which is made unless it is there; an interrupted one is continued.

    Args:
        settings: What it is made of.
        cache_dir: Folder of pools, one folder each; None takes `~/.cache/lesion-diffusion/pools`, or that of
            `XDG_CACHE_HOME`.
        background: Make it in a process of its own, and return at once. Until it is complete, lesions are drawn from
            those that are there, so that what a seed gives depends on the time.
        device: That it is made on.
    Raises: ValueError: If a setting is out of range, or the folder cannot be written.
    """
    record = settings.record()
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
    folder = (default_cache() if cache_dir is None else Path(cache_dir)) / digest
    check_output(folder, "folder", "cache_dir")
    claim_shared_folder(folder, record)
    if complete(folder, settings.shards):
        return LesionPool(folder)
    if not background:
        from diffusion.transforms.making import fill_pool

        fill_pool(folder, device)
        return LesionPool(folder)
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}
    command = [sys.executable, "-m", "diffusion.transforms.making", str(folder), device]
    with (folder / LOG).open("ab") as log:
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    return LesionPool(folder)


def complete(folder: Path, shards: int) -> bool:
    """Whether all files of a pool are there."""
    return all(shard_path(folder, number).exists() for number in range(shards))


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:04d}.safetensors"


def default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lesion-diffusion" / "pools"


def read_shard(path: Path) -> list[PooledLesion]:
    """The lesions of a file. Raises ValueError: Naming the file, if it is damaged."""
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        numbers = sorted({int(name.split(".")[0]) for name in arrays})
        found = [
            PooledLesion(
                arrays[f"{number}.opacity"],
                arrays[f"{number}.tissue_hu"],
                arrays[f"{number}.mask"],
                float(arrays[f"{number}.spacing_mm"][0]),
            )
            for number in numbers
        ]
        if any(
            one.opacity.ndim != 3 or not one.opacity.shape == one.mask.shape == one.tissue_hu.shape for one in found
        ):
            raise ValueError("shapes differ")
    except (OSError, ValueError, KeyError, IndexError, SafetensorError) as error:
        raise ValueError(f"{path}: no lesions of a pool ({error}); delete the file, and it is made again") from error
    return found


def settings_in(folder: Path) -> PoolSettings:
    """The settings of a pool's folder."""
    record = read_json(folder / SETTINGS)
    names = PoolSettings.__dataclass_fields__
    known = {name: value for name, value in record.items() if name in names}
    known["diameter_mm"] = tuple(known["diameter_mm"])
    return PoolSettings(**known)


def drawn_request(value: Request, name: str, known: Any, rng: np.random.Generator) -> float:
    """A value of a request, drawn where it is a range."""
    low, high = (check_attribute(name, end, known) for end in ends_of(value))
    return float(rng.uniform(low, high)) if low < high else low
