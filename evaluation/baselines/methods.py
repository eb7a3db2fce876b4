"""The training of each method, as its configs say, and whether the inputs of all belong together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from autoencoder.latent_dataset import load_latents
from autoencoder.loading import load_autoencoder, weights_sha256
from evaluation.baselines.config import BaselinesConfig
from evaluation.baselines.pixels import pixel_folder
from foundation.command import script_settings
from imaging.dataset.nodules import crop_size_of, load_nodules

WHOLE = {"whole_share": 1.0, "model.num_labels": 8}  # what the task changes in every config
IDENTITY = "identity"  # a config's vae: pixel space


class Method(NamedTuple):
    """A method's training.

    Attributes:
        options: Of scripts/train_ldm.py.
        settings: All of its config with these options.
    """

    options: dict[str, Any]
    settings: dict[str, Any]

    @property
    def out(self) -> Path:
        """Its folder."""
        return self.options["out"]

    def with_options(self, options: Mapping[str, Any]) -> "Method":
        """The same training with other values of some options."""
        return Method({**self.options, **options}, {**self.settings, **options})


def method_of(config: BaselinesConfig, name: str) -> Method:
    """A method's training, but for the number of its steps, which its time gives."""
    file = config.files()[name]
    options: dict[str, Any] = {"config": layers_of(file, config.configs), "out": config.out / name}
    options |= WHOLE if config.task == "whole" else {}
    own = script_settings("train_ldm", {"vae": config.vae or "none", **options, "data": config.data})
    if own["vae"] == IDENTITY:
        data, vae = pixel_folder(config) / "latents", pixel_folder(config) / "model"
    elif config.latents is None or config.vae is None:
        raise ValueError(f"{file}: a method in latent space; give --latents and --vae, or choose other --methods")
    else:
        data, vae = config.latents, config.vae
    options |= {"data": data, "vae": vae, "seed": config.seed, "budget_minutes": config.budget_minutes}
    options |= {"cpu_clock": config.cpu_clock}
    options |= {"mixed_precision": config.mixed_precision or own["mixed_precision"]}
    return Method(options, script_settings("train_ldm", options))


def layers_of(file: Path, root: Path) -> list[Path]:
    """The configs that make a method's, the most general one first; later values win."""
    if file.parent == root:
        return [file]
    return [*layers_of(file.parent.with_name(f"{file.parent.name}.yaml"), root), file]


def settings_of(method: Method) -> dict[str, Any]:
    """What a training depends on, but for its number of steps, which the budget gives."""
    settings = {name: value for name, value in method.settings.items() if name not in ("out", "steps")}
    return settings | {"vae_sha256": weights_sha256(method.options["vae"])}


def check_inputs(config: BaselinesConfig, methods: Mapping[str, Method]) -> None:
    """Refuse, before anything is computed, inputs that do not belong together."""
    nodules = load_nodules(config.data, config.split)
    size, patients = crop_size_of(load_nodules(config.data, "train")), set(nodules["patient_id"][:])
    factors = {str(config.vae): load_autoencoder(config.vae).factor} if config.vae else {}
    for name, method in methods.items():
        multiple = factors.get(str(method.options["vae"]), 1) * 2 ** (len(method.settings["model"]["channels"]) - 1)
        if size % multiple:
            raise ValueError(f"{config.data}: crops of {size} voxels, {name} needs a multiple of {multiple}")
    if config.latents is not None:
        encoded = load_latents(config.latents, "train")
        if crop_size_of(encoded) != size:
            raise ValueError(f"{config.latents}: crops of {crop_size_of(encoded)} voxels, in {config.data} of {size}")
        seen = sorted(patients & set(encoded["patient_id"][:]))
        if seen:
            raise ValueError(
                f"{config.latents}: trains on {len(seen)} patients of the {config.split} split of {config.data}, such "
                f"as {seen[0]}; encode that dataset again with scripts/encode_latents.py"
            )
