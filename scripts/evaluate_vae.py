"""Measure what autoencoders lose of nodule crops: HU, noise and texture.

    uv run scripts/evaluate_vae.py --vae runs/vae/model --data data/nodules --split test --out report_vae

Compare several autoencoders with `--vae kl=DIR,vq=DIR` (folders or Hub repositories). Each stands beside a Gaussian
blur of the same PSNR and beside the unchanged crop. LPIPS needs AlexNet's weights: `--lpips-backbone torchvision`
downloads them, a path reads them.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from foundation.config import (
    ExistingFolder,
    MustExist,
    OutputFolder,
    Seed,
    WeightsSource,
    config_dict,
    launch,
    read_arguments,
)


@dataclass(frozen=True)
class EvaluateVaeConfig:
    """What to measure.

    Attributes:
        vae: Folder or Hub repository of one autoencoder, or several as name=DIR,name=DIR.
        data: Prepared dataset.
        out: Folder for report.html, report.md, report.json and the pictures.
        split: Split of `data`: train, validation or test.
        lpips_backbone: AlexNet weights for LPIPS: none, torchvision (downloaded once), or a local state dict.
        repeats: Number of patient-wise splits and of bootstrap resamples.
        permutations: Number of exchanges in each test.
        bin_width_hu: Width of a grey level of GLCM and GLRLM.
        seed: The same inputs and seed give the same report.
        workers: Processes for texture features.
        threads: CPU threads; null takes the default of `foundation.threads`.
        device: "auto", "cpu" or "cuda"; where autoencoders and LPIPS run.
    """

    vae: Annotated[str, MustExist("folder", or_remote=True, listed=True)]
    data: ExistingFolder
    out: OutputFolder
    split: str = "test"
    lpips_backbone: WeightsSource = "none"
    repeats: int = 200
    permutations: int = 999
    bin_width_hu: float = 25.0
    seed: Seed = 0
    workers: int = 1
    threads: int | None = None
    device: str = "auto"


ARGUMENTS = read_arguments(EvaluateVaeConfig, __name__)

import numpy as np
import torch
from tqdm import tqdm

from autoencoder.loading import load_autoencoder
from evaluation.autoencoders.matched_blur import blur_valid, matched_sigma_mm
from evaluation.autoencoders.reconstruction import crop_regions, crop_scales, reconstruct, reconstruction_figures
from evaluation.autoencoders.table import CropRow, ratio_curves, summarise
from evaluation.lesions.features import TEXTURE, Features, measure_features
from evaluation.lesions.lesion_sets import Lesion
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.pair_comparison import pair_values, paired_rows
from evaluation.lesions.radiomics import MISSING, radiomics_available
from evaluation.lesions.set_comparison import distance_rows, set_metrics
from evaluation.networks.inception import load_lpips
from evaluation.reports.reconstruction_report import UNCHANGED, AutoencoderSummary, Results, draw_pictures, write_report
from evaluation.script_checks import check_settings, named_sources
from foundation.device import torch_device
from imaging.dataset.nodules import crop_size_of, load_nodules, read_nodule, spacing_mm_of
from imaging.window import to_hu, to_norm

PAIRED = ("SSIM", "MS-SSIM", "LPIPS", *(f"{kind} error" for kind in TEXTURE))  # in the lesion only, but LPIPS
NO_LPIPS = "LPIPS: not requested; --lpips-backbone torchvision fetches AlexNet's weights once, a path reads them"


def main(config: EvaluateVaeConfig) -> None:
    check_settings(config.out, config.bin_width_hu, config.repeats, config.permutations, config.workers)
    device = torch_device(config.device)
    nodules = load_nodules(config.data, config.split)
    sources = named_autoencoders(config.vae)
    autoencoders = {name: load_autoencoder(source).to(device) for name, source in sources.items()}
    window, edge = common_window(autoencoders), common_edge(autoencoders, crop_size_of(nodules))
    lpips_network = None if config.lpips_backbone == "none" else load_lpips(config.lpips_backbone)
    results = Results(
        settings=config_dict(config),
        window_hu=window,
        crop_shape=(edge, edge, edge),
        spacing_mm=spacing_mm_of(nodules),
        ms_ssim_scales=crop_scales((edge, edge, edge)),
        patients=len(set(nodules["patient_id"][:])),
        autoencoders=[summary_of(name, sources[name], model) for name, model in autoencoders.items()],
        left_out=[] if radiomics_available() else [MISSING],
    )
    results.test_openings = open_test_split(config.data, config.split, "evaluate_vae", results.settings)
    if lpips_network is None:
        results.left_out.append(NO_LPIPS)
    if edge < crop_size_of(nodules):
        results.left_out.append(f"crops of {crop_size_of(nodules)} voxels are cut to {edge}, a multiple of the factor")

    lesions: dict[str, list[Lesion]] = {}
    for index in tqdm(range(len(nodules)), "crops"):
        nodule = read_nodule(nodules, index)
        for row, lesion in judge_crop(nodule, autoencoders, window, edge):
            results.rows.append(row)
            lesions.setdefault(row.version, []).append(lesion)
    results.summary = summarise(results.rows, config.repeats, config.seed)
    for version in (f"blur of the same PSNR as {name}" for name in autoencoders):
        missing = len(nodules) - len(lesions.get(version, []))
        if missing:
            results.left_out.append(
                f"{version}: {missing} of {len(nodules)} crops left out, their reconstruction is farther from the "
                "original than any blur"
            )
    compare_texture(results, lesions, lpips_network, config, device)

    config.out.mkdir(parents=True, exist_ok=True)
    draw_pictures(results, config.out, lesions)
    write_report(results, config.out)
    print(f"wrote {config.out / 'report.html'}, report.md and report.json; {len(results.left_out)} remarks in it")


def judge_crop(
    nodule: dict[str, Any], autoencoders: dict[str, Any], window: tuple[float, float], edge: int
) -> list[tuple[CropRow, Lesion]]:
    """The figures of each version of one crop, and the version itself as a lesion whose texture can be measured."""
    box = (slice(0, edge),) * 3
    ct_hu, valid, lesion_mask = (nodule[name][box] for name in ("ct_hu", "valid_mask", "lesion_mask"))
    original = to_norm(ct_hu.astype(np.float32), *window)
    spacing_mm = tuple(float(s) for s in nodule["spacing_mm"])
    regions = crop_regions(original, valid, lesion_mask, window, spacing_mm)
    outside = np.abs(ct_hu.astype(np.float32) - window[1]) > window[0] / 2
    shares = {f"outside_window_{name}": float(outside[mask].mean()) for name, mask in regions.masks.items()}

    versions: dict[str, tuple[np.ndarray, dict[str, float]]] = {UNCHANGED: (original, shares)}
    for name, autoencoder in autoencoders.items():
        made = reconstruct(autoencoder, original)
        versions[f"autoencoder {name}"] = (made, {})
        sigma_mm = matched_sigma_mm(original, made, valid, spacing_mm)
        if sigma_mm is not None:
            blurred = blur_valid(original, valid, sigma_mm, spacing_mm)
            versions[f"blur of the same PSNR as {name}"] = (blurred, {"sigma_mm": sigma_mm})

    judged = []
    for version, (image, extra) in versions.items():
        figures = reconstruction_figures(original, image, valid, lesion_mask, window, spacing_mm, regions)
        curves = ratio_curves(image, original, regions, spacing_mm)
        of_nodule = (nodule["nodule_id"], nodule["patient_id"], nodule["diameter_mm"])
        image_hu = to_hu(image.astype(np.float32), *window)
        judged.append(
            (
                CropRow(version, *of_nodule, figures | extra, curves),
                Lesion(*of_nodule[:2], image_hu, lesion_mask > 0, valid > 0, spacing_mm),
            )
        )
    return judged


def compare_texture(
    results: Results,
    lesions: dict[str, list[Lesion]],
    lpips_network: torch.nn.Module | None,
    config: EvaluateVaeConfig,
    device: torch.device,
) -> None:
    """Each version's lesions against the originals of other patients, and the difference pair by pair."""
    features: dict[str, Features] = {}
    for version, found in lesions.items():
        features[version], problems = measure_features(found, version, config.workers, config.bin_width_hu)
        results.left_out += [problem for problem in problems if "texture" in problem]
    real = features[UNCHANGED]
    metrics = [metric for metric in set_metrics(real) if metric.kind in TEXTURE]
    originals = {lesion.name: lesion for lesion in lesions[UNCHANGED]}
    for version, found in lesions.items():
        rows, notes = distance_rows(
            version, real, features[version], metrics, config.repeats, config.permutations, config.seed
        )
        results.distances += rows
        pairs = [(originals[lesion.name], lesion) for lesion in found]
        values, pair_notes = pair_values(pairs, real, features[version], real, lpips_network, device)
        chosen = {name: value for name, value in values.items() if name in PAIRED}
        patient_of = {lesion.name: lesion.patient_id for lesion in found}
        results.pairs += paired_rows(version, chosen, patient_of, config.repeats, config.seed)
        results.left_out += notes + [f"{version}, {note}" for note in pair_notes if "PSNR" not in note]


def named_autoencoders(vae: str) -> dict[str, str]:
    """Name -> folder or repository of each autoencoder; ValueError where there is none."""
    sources = named_sources("--vae", vae)
    if not sources:
        raise ValueError("--vae is empty; give the folder of an autoencoder")
    return sources


def common_window(autoencoders: dict[str, Any]) -> tuple[float, float]:
    """(width, level) in HU; ValueError unless all share it: errors in different windows cannot be compared."""
    windows = {name: (m.config["window_width"], m.config["window_level"]) for name, m in autoencoders.items()}
    if len(set(windows.values())) > 1:
        raise ValueError(f"--vae: windows (width, level) differ: {windows}; judge these autoencoders one by one")
    return next(iter(windows.values()))


def common_edge(autoencoders: dict[str, Any], crop_size: int) -> int:
    """The largest edge in voxels that every factor divides; ValueError where crops are too small for one."""
    factor = math.lcm(*(model.factor for model in autoencoders.values()))
    if crop_size < factor:
        raise ValueError(f"crops of {crop_size} voxels are smaller than the factor {factor}; prepare larger crops")
    return crop_size // factor * factor


def summary_of(name: str, source: str, model: Any) -> AutoencoderSummary:
    """What the report says of an autoencoder."""
    channels, parameters = model.config["latent_channels"], sum(weight.numel() for weight in model.parameters())
    return AutoencoderSummary(name, source, type(model).__name__, model.factor, channels, parameters)


if __name__ == "__main__":
    launch(main, ARGUMENTS)
