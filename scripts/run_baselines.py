"""Train the baselines and our method for equal time, and compare them in one table.

uv run scripts/run_baselines.py --budget-minutes 30 --data data/nodules --latents data/latents --vae runs/vae/model \\
    --out runs/baselines
A method is a config in configs/baselines. A config in a subfolder holds what differs from the method that the subfolder
is named after. `vae: identity` means that the method works on voxels, with the same code. Each method inpaints the test
masks. The same command continues an interrupted run. You can add --methods later. With `--task whole`, each method
makes whole crops from their semantic maps, and the tables are those of LSDM.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffusion.option_types import SamplerName
from foundation.config import ExistingFolder, ModelSource, OutputFolder, Seed, WeightsSource, launch, read_arguments
from foundation.shipped import shipped
from training.config import MixedPrecision

CONFIGS = shipped("configs") / "baselines"
ORDER = ("ddpm_pixel", "snr", "film", "uncertainty", "step_aware", "conditional_gan", "spade_gan", "ldm_concat", "ours")
OF_WHOLE_CROPS = ("spade_gan", "ldm_concat", "ours")  # LSDM's
WHOLE = {"whole_share": 1.0, "model.num_labels": 8}  # what the task changes in every config
IDENTITY = "identity"  # a config's vae: pixel space


@dataclass(frozen=True, kw_only=True)
class BaselinesConfig:
    """The comparison.

    Attributes:
        data: Prepared dataset.
        out: Folder for all results; finished parts are not done again.
        budget_minutes: Training time of each method, over all continuations of the command.
        cpu_clock: Whether these are minutes of CPU time; for a CPU that other work shares.
        task: "inpaint" paints a lesion into each mask; "whole" makes the whole crop from its semantic map alone.
        methods: Names of configs, such as ours,snr; "all" takes every one, for whole crops those of LSDM: spade_gan,
            ldm_concat and ours.
        latents: `data` encoded, for methods in latent space.
        vae: Folder of the autoencoder of the latents.
        configs: Folder of the methods' configs, `<method>.yaml`, and `<method>/<variant>.yaml` with what differs.
        mixed_precision: Precision of every training; null keeps what each config says.
        pixel_variants: Variants of each training nodule for methods on voxels; one takes 2 MB of disk at 48 voxels.
        split: Split whose masks are inpainted and whose lesions they are compared with; use "validation" for tests.
        guide: Of whole crops: a pipeline on the same latents, whose guide also steers `ours` towards the ratings of
            the real lesion, each by itself and all together.
        pipelines: Of whole crops: trained pipelines that are measured beside the methods, with their own guides,
            name=PIPELINE,name=PIPELINE.
        lesions: Number of masks of the split to use, evenly spaced; null takes all.
        steps: Denoising steps; a GAN takes one.
        time_shift: Of the diffusion models, the same for all; see `InpaintRequest`.
        scheduler: Sampler of the diffusion models, see `diffusion.sampling.samplers`.
        batch_size: Lesions inpainted at a time.
        inception: Weights for the FID: fid or torchvision (downloaded once), a local state dict, or none.
        lpips_backbone: Of whole crops: AlexNet weights for LPIPS: torchvision, a local state dict, or none.
        seed: Seed of all randomness.
        workers: Processes for texture features.
        threads: CPU threads; null takes the default of `foundation.threads`.
    """

    data: ExistingFolder
    out: OutputFolder
    budget_minutes: float
    task: Literal["inpaint", "whole"] = "inpaint"
    methods: str = "all"
    latents: ExistingFolder | None = None
    vae: ExistingFolder | None = None
    configs: ExistingFolder = CONFIGS
    cpu_clock: bool = False
    mixed_precision: MixedPrecision | None = None
    pixel_variants: int = 2
    guide: ModelSource | None = None
    pipelines: str | None = None
    split: Literal["test", "validation"] = "test"
    lesions: int | None = None
    steps: int = 16
    time_shift: float = 0.0
    scheduler: SamplerName = "dpm-solver++"
    batch_size: int = 8
    inception: WeightsSource = "fid"
    lpips_backbone: WeightsSource = "none"
    seed: Seed = 0
    workers: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.budget_minutes) and self.budget_minutes > 0):
            raise ValueError(f"budget_minutes {self.budget_minutes}: expected a time above 0")
        if "," in str(self.out):
            raise ValueError(f"out {self.out}: expected a path without a comma, which separates the sets to compare")
        for name in ("pixel_variants", "lesions", "steps", "batch_size", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} {value}: expected at least 1")
        if self.task != "whole" and (self.guide is not None or self.pipelines is not None):
            raise ValueError("guide, pipelines: of whole crops; add --task whole or leave them out")
        if self.configs.is_dir():
            self.chosen()

    def chosen(self) -> list[str]:
        """Names of the methods. Raises ValueError for one that has no config, naming those that have."""
        files = sorted(self.files())
        known = [*(name for name in ORDER if name in files), *(name for name in files if name not in ORDER)]
        usual = known if self.task == "inpaint" else [name for name in OF_WHOLE_CROPS if name in known]
        names = usual if self.methods == "all" else list(filter(None, self.methods.split(",")))
        unknown = [name for name in names if name not in known]
        if unknown or not names or len(set(names)) < len(names):
            fault = f"{unknown[0]!r} is unknown" if unknown else "expected each name once, and at least one"
            raise ValueError(f"methods {self.methods}: {fault}; known in {self.configs}: {', '.join(known)}")
        return names

    def files(self) -> dict[str, Path]:
        """Config of each method by its name."""
        return {path.stem: path for path in self.configs.rglob("*.yaml")}


ARGUMENTS = read_arguments(BaselinesConfig, __name__)

import contextlib
import io
import json
import shutil
import time
from dataclasses import asdict, replace
from typing import NamedTuple, NoReturn

from autoencoder.identity import IdentityAutoencoder
from autoencoder.latent_dataset import load_latents, read_latent
from autoencoder.loading import load_autoencoder, weights_sha256
from autoencoder.pretrained import resolve_folder
from diffusion import LesionInpaintPipeline
from diffusion.sampling.loading import load_pipeline
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import load_and_make_set, paint_batch
from evaluation.lesions.whole_crops import Networks, fidelity
from evaluation.networks.inception import load_inception, load_lpips
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.baseline_table import Cost, baseline_blocks
from evaluation.reports.whole_crop_tables import whole_crop_blocks
from evaluation.script_checks import named_sources, optional_network
from foundation.atomic import recover, write_atomically
from foundation.claimed_folder import claim_file
from foundation.command import run_script, script_settings
from foundation.device import torch_device
from foundation.document import Block, to_markdown
from imaging.dataset.nodules import crop_size_of, load_nodules
from imaging.window import WINDOW_LEVEL, WINDOW_WIDTH
from training.checkpoint import read_progress

ENCODER = ("latents_mean", "latents_std", "window_width", "window_level")  # what the latents depend on
PLANNED_SHARE = 0.95  # of the budget; the rest is for a machine that slows down, as at its end a run is cut off
LEAST_MEASURED_S, MOST_MEASURED_S = 5.0, 30.0
NEVER = 10**9  # steps


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


def main(config: BaselinesConfig) -> None:
    """Measure every method's speed, train, inpaint, compare."""
    methods = {name: method_of(config, name) for name in config.chosen()}
    check_inputs(config, methods)
    if any(method.options["vae"] == pixel_folder(config) / "model" for method in methods.values()):
        prepare_pixels(config)
    for name, method in methods.items():
        claim_file(method.out / "method.json", settings_of(method), str(method.out))
        if (config.out / name / "sampling.json").exists():
            claim_sampling(config, name, sampling_of(config, method))
    runs = {name: planned(name, method) for name, method in methods.items()}
    for number, (name, run) in enumerate(runs.items(), start=1):
        steps = run.options["steps"]
        print(f"{name}, {number} of {len(runs)}: {steps} steps in {config.budget_minutes:g} minutes", flush=True)
        train(run)
        inpaint(config, name, str(run.out / "pipeline"), sampling_of(config, run))
    costs = {name: cost_of(config, name, run) for name, run in runs.items()}
    if config.task == "whole":
        file, blocks = config.out / "tables.md", whole_crop_tables(config, runs, costs)
    else:
        compare(config, list(runs))
        report = json.loads((config.out / "report/report.json").read_text())
        file, blocks = config.out / "table1.md", baseline_blocks(report, costs)
    table = to_markdown(blocks)
    write_atomically(file, lambda temporary: temporary.write_text(table))
    print(f"\n{table}\nwrote {file}")


def method_of(config: BaselinesConfig, name: str) -> Method:
    """A method's training, but for the number of its steps, which `planned` sets."""
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


def pixel_folder(config: BaselinesConfig) -> Path:
    """The identity autoencoder and what it "encodes"."""
    return config.out / "pixel"


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


def prepare_pixels(config: BaselinesConfig) -> None:
    """Make the identity autoencoder and its encoded dataset, with the window and the margin of the latents.

    Its latents are ct_norm as it is, [-1, 1]. So the losses of the texture-loss proposal have the same relative size as
    there.
    """
    folder, window = pixel_folder(config), (WINDOW_WIDTH, WINDOW_LEVEL)
    variants = dict.fromkeys(("variants", "variants_in_context"), config.pixel_variants)
    encoding = {
        "data": config.data,
        "vae": folder / "model",
        "out": folder / "latents",
        "seed": config.seed,
        **variants,
    }
    if config.vae is not None and config.latents is not None:
        own = load_autoencoder(config.vae).config
        window = (own["window_width"], own["window_level"])
        encoding["paint_margin_mm"] = float(read_latent(load_latents(config.latents, "train"), 0)["paint_margin_mm"])
    vae = {"window_width": window[0], "window_level": window[1], "latents_mean": [0.0], "latents_std": [1.0]}
    resolved = script_settings("encode_latents", encoding)
    settings = vae | {name: resolved[name] for name in ("data", "variants", "paint_margin_mm", "seed")}
    claim_file(folder / "settings.json", settings, f"{folder} and the methods that were trained on it")
    for part in ("model", "latents"):
        recover(folder / part)
    if not (folder / "model").exists():
        write_atomically(folder / "model", IdentityAutoencoder(**vae).save_pretrained)
    if not (folder / "latents").exists():
        run_script("encode_latents", encoding)


def settings_of(method: Method) -> dict[str, Any]:
    """What a training depends on, but for its number of steps, which the budget gives."""
    settings = {name: value for name, value in method.settings.items() if name not in ("out", "steps")}
    return settings | {"vae_sha256": weights_sha256(method.options["vae"])}


def planned(name: str, method: Method) -> Method:
    """The training with as many steps as its budget has time for, so that the learning rate ends with the budget.

    Speed is measured once and kept: a continued run has the schedule it began with.
    """
    path, budget_minutes = method.out / "plan.json", method.options["budget_minutes"]
    if not path.exists():
        print(f"{name}: measuring its speed ...", end=" ", flush=True)
        rate = steps_per_second(method)
        print(f"{rate:.3g} steps a second", flush=True)
        plan = {"steps_per_second": rate, "steps": max(1, int(PLANNED_SHARE * 60 * budget_minutes * rate))}
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(plan, indent=2)))
    plan = json.loads(path.read_text())
    a_minute = max(1, round(60 * plan["steps_per_second"]))
    fixed = {"steps": plan["steps"], "evaluate_every": NEVER, "checkpoint_every": a_minute}
    return Method(method.options | fixed, method.settings | fixed)


def steps_per_second(method: Method) -> float:
    """Speed of a training, measured over a twentieth of its budget, which is not charged for it."""
    seconds = min(max(60 * method.options["budget_minutes"] / 20, LEAST_MEASURED_S), MOST_MEASURED_S)
    out = method.out / "speed"
    shutil.rmtree(out, ignore_errors=True)
    trial = method.options | {"out": out, "budget_minutes": None}
    trial |= dict.fromkeys(("steps", "evaluate_every", "checkpoint_every"), NEVER)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # a bar without an end
        run_script("train_ldm", trial | {"max_minutes": 0.0})  # the first step makes ready what the others find
        first = read_progress(out / "checkpoint")
        begun = time.monotonic()
        run_script("train_ldm", trial | {"max_minutes": seconds / 60})
        last = read_progress(out / "checkpoint")
    shutil.rmtree(out)
    if time.monotonic() - begun < seconds / 2:
        stop()
    return (last.step - first.step) / (last.seconds - first.seconds)


def train(run: Method) -> None:
    """Train to the end, or leave on a signal, after which the same command goes on."""
    pipeline = run.out / "pipeline"
    recover(pipeline)
    if not pipeline.exists():
        run_script("train_ldm", run.options)
    if not pipeline.exists():
        stop()


def stop() -> NoReturn:
    """End after a signal that a training has answered."""
    print("stopped; the same command goes on")
    raise SystemExit(0)


def sampling_of(config: BaselinesConfig, method: Method) -> dict[str, Any]:
    """Network calls for a lesion, and the sampler: a GAN's one step is the training scheduler's."""
    if method.settings["objective"] == "gan":
        return {"steps": 1, "scheduler": "default"}
    return {"steps": config.steps, "scheduler": config.scheduler, "time_shift": config.time_shift}


def claim_sampling(config: BaselinesConfig, name: str, options: Mapping[str, Any]) -> None:
    """Check or write down what the lesions of a set depend on, the weights apart."""
    folder = config.out / name
    settings: dict[str, Any] = {name: getattr(config, name) for name in ("split", "lesions", "batch_size", "seed")}
    settings |= {"data": str(config.data), **options}
    made = f"{folder / 'lesions'}, {folder / '.lesions.lesions'} and {folder / 'sampling.json'}"
    claim_file(folder / "sampling.json", settings, made)


def inpaint(config: BaselinesConfig, name: str, pipeline: str, options: Mapping[str, Any]) -> None:
    """Paint a lesion into every mask, or make its whole crop, and measure how long one takes.

    Args:
        config: Of the comparison.
        name: Of the set.
        pipeline: What paints.
        options: How, of `SyntheticSetConfig`.
    """
    folder = config.out / name
    sampling = SyntheticSetConfig(
        data=config.data,
        pipeline=pipeline,
        out=folder / "lesions",
        split=config.split,
        lesions=config.lesions,
        site="whole" if config.task == "whole" else "own",
        batch_size=config.batch_size,
        seed=config.seed,
        **options,
    )
    recover(sampling.out)
    if not sampling.out.exists():
        claim_sampling(config, name, options)
        (config.out / "report/report.json").unlink(missing_ok=True)  # it is of other lesions
        load_and_make_set(sampling)
    timing = folder / "timing.json"
    if not timing.exists():
        seconds = seconds_per_lesion(sampling)
        write_atomically(timing, lambda temporary: temporary.write_text(json.dumps({"seconds_per_lesion": seconds})))


def seconds_per_lesion(sampling: SyntheticSetConfig) -> float:
    """Wall-clock of painting the first lesion alone, everything loaded."""
    pipeline, _ = load_pipeline(sampling)
    pipeline.set_progress_bar_config(disable=True)
    nodules = load_nodules(sampling.data, sampling.split)
    seconds = math.nan
    for steps in (1, sampling.steps):  # the first call makes ready what the second finds
        begun = time.monotonic()
        paint_batch(pipeline, nodules, [(0, 0)], replace(sampling, steps=steps))
        seconds = time.monotonic() - begun
    return seconds


def compare(config: BaselinesConfig, names: list[str]) -> None:
    """Evaluate all methods together, unless the report there is of the same ones."""
    report = config.out / "report"
    wanted = {
        "real": config.data,
        "synthetic": ",".join(f"{name}={config.out / name / 'lesions'}" for name in names),
        "train": config.data,
        "real_split": config.split,
        "inception": config.inception,
        "lpips_backbone": "none",
        "seed": config.seed,
    }
    recover(report)
    if (report / "report.json").exists():
        made = json.loads((report / "report.json").read_text())["settings"]
        if all(made[name] == (str(value) if isinstance(value, Path) else value) for name, value in wanted.items()):
            return
    options = wanted | {"workers": config.workers, "threads": config.threads}
    write_atomically(report, lambda temporary: run_script("evaluate", options | {"out": temporary}))


def whole_crop_tables(config: BaselinesConfig, runs: Mapping[str, Method], costs: Mapping[str, Cost]) -> list[Block]:
    """Make the sets that need no training of their own, measure all, and lay out LSDM's tables."""
    plain = {name: str(run.out / "pipeline") for name, run in runs.items()}
    others = named_sources("--pipelines", config.pipelines or "", tuple(runs))
    usual: dict[str, Any] = {"steps": config.steps, "scheduler": config.scheduler, "time_shift": config.time_shift}
    notes: list[str] = []
    names = list(runs)
    for name, source in (plain | others).items():
        if name in others:
            usual["time_shift"] = None  # its own
            inpaint(config, name, source, usual)
            names.append(name)
        elif name == "ours" and config.guide is not None:
            source = guided_pipeline(config, runs["ours"])
        guide = LesionInpaintPipeline.from_pretrained(resolve_folder(source)).guide
        if guide is None:
            continue
        notes += [f"{name}: {one} is not guided, {why}" for one, why in guide.refused.items()]
        guided = tuple(one for one in guide.attributes if one not in guide.refused)
        for label, ratings in {**{one: (one,) for one in guided}, "guide": guided}.items():
            steered = {"own_ratings": ratings, "cfg_scale": 0.0}  # the guide alone
            inpaint(config, f"{name} + {label}", source, usual | steered)
            names.append(f"{name} + {label}")
    inception, no_inception = optional_network("FID", config.inception, load_inception)
    lpips, no_lpips = optional_network("LPIPS", config.lpips_backbone, load_lpips)
    real, left_out = load_lesions(config.data, config.split)
    sets = {name: config.out / name / "lesions" for name in names}
    networks = Networks(load_nodule_net(), inception, lpips, torch_device("auto"))
    found = fidelity(real, sets, config.split, networks, seed=config.seed)
    found.left_out[:0] = [*(note for note in (no_inception, no_lpips) if note), *notes, *left_out]
    content = json.dumps(asdict(found), indent=1, ensure_ascii=False)
    write_atomically(config.out / "figures.json", lambda temporary: temporary.write_text(content))
    return whole_crop_blocks(found, costs, names)


def guided_pipeline(config: BaselinesConfig, run: Method) -> str:
    """Folder of our method's pipeline with the guide of `--guide`.

    Raises: ValueError: If there is no guide, or it was trained on latents of another autoencoder.
    """
    assert config.guide is not None
    folder = config.out / "ours with guide"
    other = LesionInpaintPipeline.from_pretrained(resolve_folder(config.guide))
    if other.guide is None:
        raise ValueError(f"guide {config.guide}: this pipeline has none; train one with scripts/train_classifier.py")
    pipeline = LesionInpaintPipeline.from_pretrained(run.out / "pipeline", guide=other.guide)
    differing = [name for name in ENCODER if pipeline.vae.config[name] != other.vae.config[name]]
    if differing:
        raise ValueError(f"guide {config.guide}: {', '.join(differing)} of its autoencoder differ from --vae")
    if not folder.exists():
        write_atomically(folder, pipeline.save_pretrained)
    return str(folder)


def cost_of(config: BaselinesConfig, name: str, run: Method) -> Cost:
    """What a finished method took."""
    steps, seconds = read_progress(run.out / "checkpoint")
    lesion = json.loads((config.out / name / "timing.json").read_text())["seconds_per_lesion"]
    return Cost(steps, run.options["steps"], seconds / 60, sampling_of(config, run)["steps"], lesion)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
