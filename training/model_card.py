"""The card (README.md) of a saved model: what its training knows, and what it is not for.

Written beside the weights, from what lies on disk: the run's config, metrics and data record, the weights themselves,
and an evaluation report where there is one. It names no patient and no path of a machine.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml
from huggingface_hub import ModelCardData
from safetensors import safe_open

from autoencoder.loading import weights_sha256
from foundation.atomic import write_atomically
from foundation.document import from_template
from imaging.dataset.card import CITATION
from training.curves import read_metrics
from training.data_record import DataRecord, record_data

TAGS = ["lesion-diffusion", "medical", "ct", "lung-nodule", "3d"]
NOT_HELD_OUT = ("skipped_steps", "a_to_b_texture", "b_to_a_texture")  # logged by themselves, yet no such figures
PIPELINE_USAGE = """\
from diffusion import LesionInpaintPipeline
from imaging.files.ct import read_ct

pipe = LesionInpaintPipeline.from_pretrained("{repo}")
ct = read_ct("scan_folder")  # DICOM or NIfTI, HU
result = pipe(ct, center=(70, 250, 150), diameter_mm=12)  # voxel index z, y, x; or pipe(ct, mask)
result.ct  # the scan with the lesion"""
AUTOENCODER_USAGE = """\
from autoencoder.loading import load_autoencoder

vae = load_autoencoder("{repo}")
latent = vae.encode(ct_norm).latent_dist.mode()  # ct_norm: (B, 1, D, H, W), the HU window mapped to [-1, 1]
ct_norm = vae.decode(latent).sample"""

TRANSLATOR_USAGE = """\
from diffusion.sampling.scan_translation import translate_scan
from diffusion.translator import Translator
from imaging.files.ct import read_ct

translator = Translator.from_pretrained("{repo}")
made = translate_scan(translator, read_ct("scan_folder"), "a_to_b")  # DICOM or NIfTI, HU"""


@dataclass(frozen=True)
class Part:
    """A network of the model: its name in the pipeline, its class, and its weights."""

    name: str
    kind: str
    parameters: str
    sha256: str


@dataclass(frozen=True)
class Figure:
    """A figure of an evaluation report, with its 95 % interval, as printed."""

    name: str
    subject: str
    value: str
    low: str
    high: str


def write_model_card(
    folder: Path,
    run: Path | None = None,
    repo: str | None = None,
    report: Path | None = None,
    commands: Path | None = None,
) -> None:
    """Write README.md into the folder of a saved pipeline or autoencoder; arguments as :func:`model_card`."""
    text = model_card(folder, run, repo, report, commands)
    write_atomically(folder / "README.md", lambda temporary: temporary.write_text(text))


def model_card(
    folder: Path,
    run: Path | None = None,
    repo: str | None = None,
    report: Path | None = None,
    commands: Path | None = None,
) -> str:
    """The card of a saved pipeline or autoencoder.

    Args:
        folder: Written by its `save_pretrained`.
        run: Folder of the training; None if it is not at hand.
        repo: "OWNER/NAME" for the title and the code that loads it.
        report: Folder of a report of `scripts/evaluate.py` or `scripts/evaluate_vae.py`, whose figures are quoted.
        commands: Text file with the commands that made the model, quoted as they are.
    Raises: ValueError: If `report` has no readable report.json.
    """
    config, commit = _config_of(run)
    data = record_data(Path(config["data"]), run) if "data" in config else None
    is_pipeline = (folder / "model_index.json").is_file()
    steps, metrics_step, metrics = _held_out(run)
    judged, figures = _reported(report)
    name = repo or (run.name if run is not None else folder.resolve().name)
    is_translator = _config(folder).get("_class_name") == "Translator"
    kind = ["image-to-image"] if is_translator else ["autoencoder"]
    tags = [*TAGS, *(["inpainting", "latent-diffusion"] if is_pipeline else kind)]
    model_usage = TRANSLATOR_USAGE if is_translator else AUTOENCODER_USAGE
    return from_template(
        "model_card.md.jinja",
        header=_header(data, is_pipeline, tags),
        title=name,
        what=_what(folder, is_pipeline),
        version=version("lesion-diffusion"),
        usage=(PIPELINE_USAGE if is_pipeline else model_usage).format(repo=repo or "OWNER/NAME"),
        data=data,
        config=yaml.safe_dump(without_places(config), sort_keys=False).rstrip() if config else None,
        commit=commit,
        commands=commands.read_text().rstrip() if commands is not None else None,
        steps=steps,
        metrics=metrics,
        metrics_step=metrics_step,
        judged=judged,
        figures=figures,
        parts=list(_parts(folder)),
        shapes=_config(folder / "shapes") if is_pipeline else None,
        uses=_uses(is_pipeline, is_translator),
        limits=list(_limits(folder, is_pipeline)),
        citation=CITATION,
    )


def without_places(value: Any) -> Any:
    """A config whose paths are cut down to their last name, and whose URLs have lost their password."""
    if isinstance(value, Mapping):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    if "://" in value:
        url = urlsplit(value)
        return urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
    is_path = value.startswith((".", "/", "~")) or value.count("/") > 1
    return Path(value).name if is_path else value


def _header(data: DataRecord | None, is_pipeline: bool, tags: list[str]) -> str:
    facts: dict[str, Any] = {"library_name": "lesion-diffusion", "tags": tags, "license": "apache-2.0"}
    if data is None or not data.is_lidc:
        facts |= {"license": "other", "license_name": "not-stated"}
    if is_pipeline:
        facts["pipeline_tag"] = "image-to-image"
    return str(ModelCardData(**facts).to_yaml())


def _config_of(run: Path | None) -> tuple[dict[str, Any], str]:
    """The run's config and the git commit in its first line."""
    path = run / "config.yaml" if run is not None else None
    if path is None or not path.is_file():
        return {}, "unknown"
    text = path.read_text()
    commit = re.match(r"# git commit: (\S+)", text)
    return yaml.safe_load(text) or {}, commit[1] if commit else "unknown"


def _held_out(run: Path | None) -> tuple[int, int, dict[str, str]]:
    """The last step, the step of the last evaluation, and its figures: what was logged apart from the loss."""
    logged = read_metrics(run / "metrics.jsonl") if run is not None else {}
    last = {name: points[-1] for name, points in logged.items() if len(points)}
    steps = int(max((step for step, _ in last.values()), default=0))
    of_training = _names_beside_loss(run) if run is not None else set()
    found = {name: point for name, point in last.items() if name not in of_training and name not in NOT_HELD_OUT}
    newest = int(max((step for step, _ in found.values()), default=0))
    return steps, newest, {name: f"{value:.4g}" for name, (step, value) in found.items() if step == newest}


def _names_beside_loss(run: Path) -> set[str]:
    names: set[str] = set()
    path = run / "metrics.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut off by a kill
        names |= record.keys() if "loss" in record else set()
    return names


def _reported(report: Path | None) -> tuple[str, list[Figure]]:
    """On what an evaluation judged, and its figures: ratios of distances, and means of pairs and of crops."""
    if report is None:
        return "", []
    try:
        content = json.loads((report / "report.json").read_text())
        rows = [("ratio, " + row["metric"], row["method"], row["ratio"], row) for row in content.get("distances", [])]
        rows += [(row["metric"], row["method"], row["mean"], row) for row in content.get("pairs", [])]
        rows += [(row["figure"], row["version"], row["mean"], row) for row in _overall(content.get("summary", []))]
        figures = [
            Figure(name, subject, *(f"{number:.3g}" for number in (value, row["low"], row["high"])))
            for name, subject, value, row in rows
            if None not in (value, row["low"], row["high"])
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{report}: no readable report.json ({error!r}); give the folder that scripts/evaluate.py wrote"
        ) from error
    real = next((one for one in content.get("sets", []) if one.get("label") == "real"), None)
    return (f" on {real['lesions']} lesions of the split {real['split']!r}" if real else ""), figures


def _overall(summary: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the autoencoders' report, the figures over all crops."""
    return [row for row in summary if row["group"] == "all" and row["version"].startswith("autoencoder ")]


def _parts(folder: Path) -> Iterator[Part]:
    for weights in sorted({path.parent for path in folder.rglob("*.safetensors")}):
        shapes = []
        for file in sorted(weights.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as tensors:
                shapes += [tensors.get_slice(key).get_shape() for key in tensors.keys()]  # noqa: SIM118 - no mapping
        parameters = sum(_product(shape) for shape in shapes)
        kind = _config(weights).get("_class_name", "unknown")
        name = str(weights.relative_to(folder)) if weights != folder else "model"
        yield Part(name, kind, f"{parameters:,}", weights_sha256(weights))


def _product(shape: list[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _what(folder: Path, is_pipeline: bool) -> str:
    if is_pipeline:
        return (
            "A latent diffusion pipeline that inpaints lung nodules into chest CT: outside the painted region the scan "
            "stays as it is, to the bit."
        )
    config = _config(folder)
    if config.get("_class_name") == "Translator":
        return f"Translates chest CT between the kinds {config['kind_a']} (a) and {config['kind_b']} (b)."
    return f"A 3D autoencoder for chest CT (`{_config(folder).get('_class_name', 'unknown')}`)."


def _uses(is_pipeline: bool, is_translator: bool) -> list[str]:
    if is_translator:
        return [
            "Research: scans as a network expects them that was trained on the other kind.",
            "Every scan that it changes has to be marked as synthetic, and kept apart from patients' records.",
        ]
    if is_pipeline:
        return [
            "Research: training data and tests for detection, segmentation and classification, reader studies, and the "
            "study of generative models themselves.",
            "Every scan that it changes has to be marked as synthetic, and kept apart from patients' records.",
        ]
    return ["Research: the latent space of diffusion models on chest CT."]


def _limits(folder: Path, is_pipeline: bool) -> Iterator[str]:
    yield "Not for diagnosis, nor for any decision about a patient; it has no regulatory clearance."
    window = _config(folder / "vae" if is_pipeline else folder)
    if "window_width" in window and "window_level" in window:
        low, high = (window["window_level"] + sign * window["window_width"] / 2 for sign in (-1, 1))
        yield f"It sees and makes values from {low:g} to {high:g} HU; what lies outside is clipped."
    if window.get("_class_name") == "Translator":
        yield "Detail that the source does not have is drawn at random, and may look like anatomy."
    elif not is_pipeline:
        yield "A reconstruction is smoother than its original; `scripts/evaluate_vae.py` says by how much."
    if is_pipeline:
        index = json.loads((folder / "model_index.json").read_text())
        if "crop_size" in index and "spacing_mm" in index:
            yield (
                f"It works on {index['crop_size']}³ voxels at {index['spacing_mm']:g} mm around the lesion; finer "
                "detail and more distant surroundings are unknown to it."
            )
        yield (
            "It has learnt the lesions of its data, with that data's scanners, sizes and kinds; others it makes badly "
            "or not at all, without a word. Its lesions may resemble some that it was trained on."
        )
        if any(index.get("population") or ()):
            yield (
                "If nothing is requested, it draws texture and HU of a lesion of its training data of similar size; "
                "`draw_appearance=False` switches this off."
            )
        if any(index.get("shapes") or ()):
            yield 'Its shapes are outlines of 3 to 36 mm; without a mask, a larger lesion needs `shape="procedural"`.'
        yield "A request (malignancy, texture, density) is not a guarantee: measure what was reached."
