"""Ask for lesions of a character, at several strengths, and report what a judge makes of them and what asking costs.

    python scripts/train_judge.py --data data/nodules --out runs/judge
    python scripts/evaluate_guidance.py --data data/nodules --pipeline runs/classifier/pipeline --judge runs/judge \
        --kind both --out runs/guidance

Every mask of the split gets a lesion for each value of each request and scale, from the same noise. Sets are kept in
<out>_sets as soon as they are made: the same command continues, and one with more scales or requests adds to them. The
report has the judge's verdict, requested against achieved HU, leakage, and the distances to real lesions beside real vs
real.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.sampling.loading import SamplingConfig, load_pipeline, weights_of
from evaluation.guided.requested_values import (
    CLASS_ATTRIBUTE,
    HU_ATTRIBUTES,
    REQUESTABLE,
    Kind,
    RequestedValue,
    known_requests,
    requested_values,
    strengths,
)
from foundation.config import ExistingFolder, config_dict, launch, read_arguments


@dataclass(frozen=True, kw_only=True)
class EvaluateGuidanceConfig(SamplingConfig):
    """What to ask for and how to measure it.

    Attributes:
        data: Prepared dataset that gives masks and scans, and the real lesions to compare with.
        judge: Folder from scripts/train_judge.py.
        kind: What is swept: cfg_scale ("cfg"), guidance_scale ("classifier"), those two at once ("both"), or hu_scale
            ("hu").
        scales: Strengths; unconditional lesions are always made.
        requests: Attributes, each requested by itself.
        distances_of: Requests whose sets are compared with the real lesions.
        guidance_scale: Of the guide where it is not swept.
        cfg_scale: Where it is not swept; 0 asks the U-Net for nothing, so that a guide is seen alone.
        hu_scale: Where it is not swept.
        attributes: Not to be given: it is what this script varies.
        split: "train", "validation" or "test".
        lesions: Masks of the split to use, evenly spaced; null takes all.
        samples: Lesions for each mask and value.
        batch_size: Lesions at a time.
        repeats: Patient-wise splits and bootstrap resamples.
        permutations: Exchanges of each test of the distances.
        workers: Processes for texture features.
    """

    data: ExistingFolder
    judge: ExistingFolder
    kind: Kind = "cfg"
    scales: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
    requests: tuple[str, ...] = ("malignancy", "spiculation", "lobulation", "texture", "mean_hu", "p10_hu", "p90_hu")
    distances_of: tuple[str, ...] = ("malignancy", "mean_hu")
    guidance_scale: float = 0.0
    cfg_scale: float = 0.0
    hu_scale: float = 0.0
    split: str = "test"
    lesions: int | None = None
    samples: int = 1
    batch_size: int = 8
    repeats: int = 200
    permutations: int = 99
    workers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in (*self.requests, *self.distances_of) if name not in REQUESTABLE]
        if unknown or not self.requests:
            raise ValueError(f"requests {', '.join(unknown) or 'none'}: expected some of {', '.join(REQUESTABLE)}")
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise ValueError(f"scales {self.scales}: expected at least one, and each once")
        if self.attributes:
            raise ValueError(
                f"attributes {self.attributes}: this script asks for the requests, one by one; leave it out"
            )


ARGUMENTS = read_arguments(EvaluateGuidanceConfig, __name__)

from datasets import Dataset
from tqdm import tqdm

from diffusion import LesionInpaintPipeline
from diffusion.attributes import requestable
from evaluation.guided.cost import CostRow
from evaluation.guided.judge_figures import judge_rows, ratings_of
from evaluation.guided.requested_sets import (
    Character,
    RequestedSet,
    changed_outside,
    character_of,
    pooled,
    without_volumes,
)
from evaluation.guided.requested_vs_achieved import class_row, leak_row, rank_row, real_spread_of
from evaluation.lesions.features import Features, measure_features
from evaluation.lesions.lesion_sets import Lesion, load_lesions
from evaluation.lesions.openings import open_test_split
from evaluation.lesions.radiomics import BIN_WIDTH_HU, MISSING, radiomics_available
from evaluation.lesions.set_comparison import distance_rows, set_metrics
from evaluation.lesions.synthetic_set_config import SyntheticSetConfig
from evaluation.lesions.synthetic_sets import left_out_file, make_set, settings_of
from evaluation.networks.lesion_judge import LesionJudge, load_judge
from evaluation.networks.nodule_net import load_nodule_net
from evaluation.reports.guidance_pictures import draw_curves, draw_lesions
from evaluation.reports.guidance_report import GuidanceResults, write_guidance_report
from evaluation.script_checks import check_settings
from foundation.claimed_folder import claim_folder
from imaging.dataset.nodules import load_nodules

UNASKED = "unconditional"


class Planned(NamedTuple):
    """A set to be made: what is requested, how strongly, and where it goes."""

    attribute: str
    value: RequestedValue
    scale: float
    folder: Path


def main(config: EvaluateGuidanceConfig) -> None:
    """Check, make the sets that are missing, judge and measure them, report."""
    check_settings(config.out, BIN_WIDTH_HU, config.repeats, config.permutations, config.workers)
    judge, record = load_judge(config.judge)
    nodules = load_nodules(config.data, config.split)
    check_unseen(nodules, record)
    pipeline, folder = load_pipeline(config)
    results = GuidanceResults(settings=config_dict(config), kind=config.kind, samples=config.samples)
    plan = planned(config, pipeline, judge, record, results)
    results.test_openings = open_test_split(config.data, config.split, "evaluate_guidance", results.settings)

    make_sets(config, plan, nodules, pipeline, weights_of(config, pipeline, folder))
    real, unconditional, sets = measure(config, plan, judge, record, pipeline, results)
    follow(config, unconditional, sets, character_of(judge, list(real.values())), results)
    compare(config, plan, list(real.values()), results)

    config.out.mkdir(parents=True, exist_ok=True)
    draw_curves(results, config.out, sets)
    draw_lesions(results, config.out, sets, list(real.values()), lambda *what: shown(config, plan, *what))
    write_guidance_report(results, config.out)
    print(f"wrote {config.out / 'report.html'}, report.md and report.json; {len(results.left_out)} remarks in it")


def check_unseen(nodules: Dataset, record: Mapping[str, Any]) -> None:
    """Raise ValueError where the judge was trained on a patient of the split."""
    seen = sorted(set(record["patients"]) & set(nodules["patient_id"][:]))
    if seen:
        raise ValueError(
            f"the judge was trained on {len(seen)} patients of this split, such as {seen[0]}; choose another --split, "
            "or train a judge on the training split of the same dataset"
        )


def planned(
    config: EvaluateGuidanceConfig,
    pipeline: LesionInpaintPipeline,
    judge: LesionJudge,
    record: Mapping[str, Any],
    results: GuidanceResults,
) -> list[Planned]:
    """All sets but the unconditional one; what cannot be requested or judged is noted. ValueError if none is left."""
    of_guide = () if pipeline.guide is None else tuple(pipeline.guide.attributes)
    refused = getattr(pipeline.guide, "refused", {})
    of_unet = requestable(pipeline.unet.config.get("attributes") or ())
    requests, notes = known_requests(config.requests, config.kind, of_unet, of_guide, refused)
    results.left_out += notes
    unjudged = [name for name in requests if name not in (*judge.attributes, *HU_ATTRIBUTES)]
    results.left_out += [f"{name}: not requested, the judge knows nothing of it" for name in unjudged]
    requests = [name for name in requests if name not in unjudged]
    if not requests:
        raise ValueError(f"{config.judge}: judges {', '.join(judge.attributes)}, and none of it can be requested")
    plan = []
    for attribute in requests:
        for value in requested_values(attribute, record["hu_quantiles"]):
            for scale in sorted(config.scales):
                asking = any(strengths(config.kind, scale, own_scales(config)).values())
                name = f"{attribute}_{value.label}_at_{scale:g}" if asking else UNASKED
                plan.append(Planned(attribute, value, scale, sets_folder(config) / name))
    return plan


def own_scales(config: EvaluateGuidanceConfig) -> dict[str, float]:
    """The strengths where they are not swept."""
    return {name: getattr(config, name) for name in ("cfg_scale", "guidance_scale", "hu_scale")}


def sets_folder(config: EvaluateGuidanceConfig) -> Path:
    """Where the lesions are kept."""
    return config.out.with_name(f"{config.out.name}_sets")


def make_sets(
    config: EvaluateGuidanceConfig,
    plan: Sequence[Planned],
    nodules: Dataset,
    pipeline: LesionInpaintPipeline,
    weights: Mapping[str, Any],
) -> None:
    """Make the sets that are missing; ValueError if there are sets of other settings."""
    names = [field.name for field in fields(SyntheticSetConfig) if hasattr(config, field.name)]
    shared = {name: getattr(config, name) for name in names}
    unconditional = SyntheticSetConfig(**{**shared, "out": sets_folder(config) / UNASKED, "draw_appearance": False})
    found = {"kind": config.kind, "device": pipeline.device.type, **weights}
    claim_folder(sets_folder(config), {**settings_of(unconditional), **found})
    wanted = {unconditional.out: unconditional}
    for attribute, value, scale, folder in plan:
        requested = {"attributes": {attribute: value.request}, **strengths(config.kind, scale, own_scales(config))}
        if folder != unconditional.out:
            wanted[folder] = SyntheticSetConfig(**{**shared, "out": folder, **requested})
    for folder, settings in tqdm(wanted.items(), desc="sets"):
        if not folder.exists():
            make_set(pipeline, nodules, settings, weights)


def measure(
    config: EvaluateGuidanceConfig,
    plan: Sequence[Planned],
    judge: LesionJudge,
    record: Mapping[str, Any],
    pipeline: LesionInpaintPipeline,
    results: GuidanceResults,
) -> tuple[dict[str, Lesion], Character, list[RequestedSet]]:
    """The real lesions of the sweep's masks, the unconditional lesions, and every set; the judge's figures."""
    everyone, left_out = load_lesions(config.data, config.split)
    ratings = ratings_of(config.data, config.split, everyone, judge.attributes)
    rows, notes = judge_rows(
        character_of(judge, everyone).judgement,
        everyone,
        ratings,
        record["label_policy"],
        config.split,
        config.repeats,
        config.seed,
    )
    results.judge += rows
    results.left_out += left_out + notes
    margin_mm = pipeline.config["paint_margin_mm"] if config.paint_margin_mm is None else config.paint_margin_mm
    scans = {lesion.name: lesion for lesion in everyone}
    characters: dict[Path, Character] = {}
    for folder in tqdm([sets_folder(config) / UNASKED, *dict.fromkeys(one.folder for one in plan)], desc="judging"):
        if folder in characters:
            continue
        lesions, left_out = load_lesions(folder, config.split)
        listed = left_out_file(folder)
        results.left_out += [f"{folder.name}, {sentence}" for sentence in left_out]
        results.left_out += [f"{folder.name}: some lesions could not be made, see {listed}"] if listed.exists() else []
        changed, outside = changed_outside(scans, lesions, margin_mm)
        results.changed_outside += changed
        results.outside += outside
        characters[folder] = character_of(judge, lesions)
    unconditional = characters[sets_folder(config) / UNASKED]
    masks = sorted(set(unconditional.masks))
    results.sets, results.masks, results.patients = len(characters), len(masks), len(set(unconditional.patients))
    sets = [RequestedSet(one.attribute, one.value, one.scale, characters[one.folder]) for one in plan]
    return {mask: scans[mask] for mask in masks}, unconditional, sets


def follow(
    config: EvaluateGuidanceConfig,
    unconditional: Character,
    sets: Sequence[RequestedSet],
    real: Character,
    results: GuidanceResults,
) -> None:
    """Requested against judged and achieved, and leakage of the lowest and highest value of each request."""
    spread = real_spread_of(real)
    for attribute in dict.fromkeys(one.attribute for one in sets):
        for scale in sorted(config.scales):
            own = [one for one in sets if one.attribute == attribute and one.scale == scale]
            if attribute == CLASS_ATTRIBUTE:
                results.classes.append(class_row(own[0], own[-1], config.repeats, config.seed))
            else:
                results.ranks.append(rank_row(own))
            if own[0].character is not unconditional:
                results.leaks += [leak_row(one, unconditional, spread) for one in (own[0], own[-1])]


def compare(
    config: EvaluateGuidanceConfig, plan: Sequence[Planned], real: list[Lesion], results: GuidanceResults
) -> None:
    """Distances of the requests' lesions to the real ones, by scale."""
    if not radiomics_available():
        results.left_out.append(MISSING)
    network = load_nodule_net()

    def features_of(lesions: list[Lesion], label: str) -> Features:
        found, problems = measure_features(lesions, label, config.workers, nodule_net=network)
        results.left_out.extend(problems)
        return without_volumes(found)

    truth = features_of(real, "real")
    metrics = [metric for metric in set_metrics(truth) if metric.tested]
    known: dict[tuple[Path, ...], Features] = {}
    for attribute in [name for name in config.distances_of if any(one.attribute == name for one in plan)]:
        for scale in sorted(config.scales):
            label = f"{attribute} at {scale:g}"
            folders = tuple(dict.fromkeys(o.folder for o in plan if o.attribute == attribute and o.scale == scale))
            if folders not in known:
                known[folders] = features_of(pooled([load_lesions(f, config.split)[0] for f in folders]), label)
            rows, notes = distance_rows(
                label, truth, known[folders], metrics, config.repeats, config.permutations, config.seed
            )
            results.costs.append(CostRow(attribute, scale, rows))
            results.left_out += notes


def shown(
    config: EvaluateGuidanceConfig, plan: Sequence[Planned], attribute: str, value: str, scale: float
) -> dict[str, Lesion]:
    """The first sample of each mask of a set."""
    folder = next(o.folder for o in plan if (o.attribute, o.value.label, o.scale) == (attribute, value, scale))
    lesions, _ = load_lesions(folder, config.split)
    return {lesion.mask_name: lesion for lesion in reversed(lesions)}


if __name__ == "__main__":
    launch(main, ARGUMENTS)
