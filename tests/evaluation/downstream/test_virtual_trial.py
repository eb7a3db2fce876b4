"""Virtual trials: what stays and what changes, what counts as found, three kinds of detectors, runs that go on."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors.torch import save_file
from scipy.stats import beta
from shape_factory import nodule_shapes
from tiny_models import pixel_pipeline

from diffusion.shapes import LesionShapes
from evaluation.downstream.tasks import unet
from evaluation.downstream.trial_detectors import Candidate, detector_of
from evaluation.downstream.virtual_trial import Condition, best_score, conditions_of, draw_lesion, painted, sensitivity
from imaging.files.ct import write_ct
from imaging.lesions.sites import free_lung
from imaging.phantom.chest import chest_phantom, phantom_image
from scripts import virtual_trial
from scripts.virtual_trial import VirtualTrialConfig, main

LEVELS = {"diameter_mm": (9.0, 14.0), "wall_mm": (3.0, 12.0)}
SCANS: list[sitk.Image] = []  # what the detector below was shown


def bright_voxels(ct: sitk.Image) -> list[tuple[float, float, float, float]]:
    """A detector that finds nothing, and keeps what it saw."""
    SCANS.append(ct)
    return []


@pytest.fixture(scope="module")
def scan() -> sitk.Image:
    return phantom_image(chest_phantom((40, 80, 96), (4.0, 3.0, 3.0), n_nodules=0, seed=1))


@pytest.fixture(scope="module")
def pipeline():
    pipe = pixel_pipeline(crop_size=16, spacing_mm=3.0)
    pipe.register_modules(shapes=LesionShapes.of_nodules(nodule_shapes()))
    return pipe


def test_a_candidate_within_the_radius_is_a_hit_and_one_beyond_is_not():
    mask = sitk.Image(40, 40, 40, sitk.sitkUInt8)
    mask[10:20, 10:20, 10:20] = 1  # a cube of 10 mm, as large as a ball with a radius of 6.2 mm
    mask.SetOrigin((5.0, -3.0, 100.0))
    centre = np.array((14.5, 14.5, 14.5)) + mask.GetOrigin()
    near, far = (Candidate(centre[0] + shift, centre[1], centre[2], score) for shift, score in ((6.0, 0.4), (6.5, 0.9)))
    assert best_score([near, far], mask) == 0.4
    assert best_score([far], mask) == 0.0


def test_the_interval_of_the_sensitivity_is_the_beta_distributions():
    value, low, high = sensitivity([0.9, 0.5, 0.4, 0.1], 0.5)
    assert value == 0.5
    assert (low, high) == pytest.approx((beta.ppf(0.025, 2, 3), beta.ppf(0.975, 3, 2)))


def test_a_lesion_keeps_its_shape_and_place_where_its_size_changes_and_lies_as_far_from_the_wall_as_asked(
    scan, pipeline
):
    lung = free_lung(scan)
    lesion = draw_lesion(0, "scan", lung, pipeline.shapes, 10.0, LEVELS, seed=3)
    volumes, centres = [], []
    for diameter_mm in LEVELS["diameter_mm"]:
        made, mask = painted(
            lesion, Condition("diameter_mm", diameter_mm), scan, pipeline, 10.0, {"num_inference_steps": 1}, 30.0, 3
        )
        inside = sitk.GetArrayViewFromImage(mask) > 0
        volumes.append(inside.sum() * np.prod(mask.GetSpacing()))
        centres.append(mask.TransformContinuousIndexToPhysicalPoint(np.argwhere(inside).mean(0)[::-1].tolist()))
        assert made.GetSize() == mask.GetSize()
    assert volumes == pytest.approx([np.pi / 6 * mm**3 for mm in LEVELS["diameter_mm"]], rel=0.1)
    assert np.linalg.norm(np.subtract(*centres)) < 2.0
    for wall_mm, site in lesion.wall_sites_mm.items():
        index = lung.grid.TransformPhysicalPointToIndex(site)[::-1]
        assert lung.wall_mm[index] == pytest.approx(wall_mm + 5.0, abs=1.6)


def test_levels_are_examined_one_factor_at_a_time():
    assert conditions_of(8.0, {"mean_hu": (-500, -100)}) == [
        Condition("base", 8.0), Condition("mean_hu", -500.0), Condition("mean_hu", -100.0)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="'density'"):
        conditions_of(8.0, {"density": (1.0,)})


def test_a_command_line_is_a_detector(tmp_path):
    script = tmp_path / "detect.py"
    script.write_text(
        "import sys, SimpleITK\nsize = SimpleITK.ReadImage(sys.argv[1]).GetSize()\n"
        "open(sys.argv[2], 'w').write(f'x,y,z,score\\n{size[0]},1.5,-2,0.75\\n')\n"
    )
    detect = detector_of(f"{sys.executable} {script} {{ct}} {{out}}")
    assert detect(sitk.Image(7, 6, 5, sitk.sitkInt16)) == [Candidate(7.0, 1.5, -2.0, 0.75)]
    failing = detector_of(f"{sys.executable} -c 'raise SystemExit(\"no licence\")' {{ct}} {{out}}")
    with pytest.raises(ValueError, match="ended with 1 and no table: no licence"):
        failing(sitk.Image(7, 6, 5, sitk.sitkInt16))


def test_a_network_of_the_downstream_evaluation_is_a_detector_and_its_places_are_physical(tmp_path):
    path = tmp_path / "detection.safetensors"
    save_file({name: value.contiguous() for name, value in unet().state_dict().items()}, path)
    ct = sitk.Image(20, 24, 16, sitk.sitkInt16) - 900
    ct.SetSpacing((0.7, 0.7, 1.25))
    ct.SetOrigin((-100.0, 50.0, 10.0))
    for x, y, z, score in detector_of(str(path))(ct):
        assert -101 <= x <= -85 and 49 <= y <= 68 and 9 <= z <= 31 and 0 < score < 1
    path.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="no detection network"):
        detector_of(str(path))
    for wrong in ("nothing", "no.such.module:f", "detect the nodules"):
        with pytest.raises(ValueError, match="detector"):
            detector_of(wrong)


@pytest.mark.slow
def test_a_trial_goes_on_where_it_was_cut_off_and_reports(scan, pipeline, tmp_path, monkeypatch):
    write_ct(scan, tmp_path / "scans/one.nii.gz")
    monkeypatch.setattr(virtual_trial, "load_pipeline", lambda config: (pipeline, tmp_path))
    monkeypatch.setattr(virtual_trial, "weights_of", lambda *_: {"pipeline_sha256": "0"})
    module = SimpleNamespace(f=bright_voxels)
    monkeypatch.setitem(sys.modules, "a_detector", module)
    config = VirtualTrialConfig(
        scans=tmp_path / "scans", detector="a_detector:f", lesions=2, diameter_mm=10.0, levels=LEVELS, steps=1,
        reach_mm=30.0, out=tmp_path / "out",
    )  # fmt: skip
    SCANS.clear()
    main(replace(config, lesions=1))
    main(config)
    assert len(SCANS) == 2 * 5
    report = json.loads((config.out / "report.json").read_text())
    assert [row["found"][0] for row in report["rows"]] == 5 * [0.0]
    assert (config.out / "sensitivity.png").is_file()
