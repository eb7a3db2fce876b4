"""Benchmarks that inpaint run from end to end on the tiny chain, and make nothing twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from benchmarks.choices import few_steps, mottling, seam
from benchmarks.quality import plausibility
from benchmarks.speed import guidance_overhead, synthesize, unet_sizes, whole_scan
from evaluation.lesions.hu_and_seam import core_deviation
from evaluation.lesions.lesion_sets import load_lesions
from foundation.config import launch, parse_config
from imaging.dataset.nodules import load_nodules, read_nodule, save_nodule_dataset
from imaging.files.ct import write_ct
from imaging.phantom.chest import chest_phantom, phantom_image
from scripts.inpaint_nodules import synthetic_row


@pytest.fixture
def nodules(chain, tmp_path) -> Path:
    """Twelve nodules of the phantom as if each were of a validation patient of its own."""
    given = [load_nodules(chain.nodules, split) for split in ("validation", "train")]
    rows = [synthetic_row(row := read_nodule(split, i), row["ct_hu"], 0, 1) for split in given for i in range(6)]
    each = ({**row, "patient_id": f"patient{i}", "split": "validation"} for i, row in enumerate(rows))
    save_nodule_dataset(each, tmp_path / "nodules", rows[0]["ct_hu"].shape[0])
    return tmp_path / "nodules"


@pytest.mark.slow
def test_few_steps_compares_samplers_and_continues(chain, nodules, tmp_path, monkeypatch):
    config = few_steps.FewStepsConfig(
        pipeline=str(chain.ldm / "pipeline"),
        data=nodules,
        out=tmp_path / "few",
        samplers=("ddim", "unipc"),
        calls=(2, 1),
        repeats=10,
        device="cpu",
    )
    few_steps.main(config)
    text = (config.out / "few_steps.md").read_text()
    assert "12 synthetic and 12 real lesions (validation)" in text and text.count("| unipc | 2 | 0.0 |") == 1
    assert text.count("| ddim | 1 |") == 2 and (config.out / "few_steps.png").stat().st_size > 10_000

    monkeypatch.setattr(few_steps.inpaint_nodules, "painted", lambda *_: pytest.fail("made twice"))
    few_steps.main(config)
    assert (config.out / "few_steps.md").read_text() == text
    with pytest.raises(ValueError, match=r"other settings \(seed: 0 -> 1\)"):
        few_steps.main(replace(config, seed=1))
    with pytest.raises(ValueError, match='"flow-euler" does not fit this pipeline'):
        few_steps.main(replace(config, samplers=("flow-euler",)))
    with pytest.raises(ValueError, match="at least two numbers from 1 on"):
        few_steps.main(replace(config, calls=(4,)))


@pytest.mark.slow
def test_mottling_paints_and_measures_what_has_a_core(chain, nodules, tmp_path):
    tiny = f"tiny={chain.ldm / 'pipeline'}"
    config = mottling.MottlingConfig(data=nodules, pipelines=tiny, out=tmp_path / "m", time_shifts=(0.0, 0.5), steps=1)
    mottling.main(config)
    rows = mottling.rows_of(config)
    measured = [core_deviation(row["ct_hu"], row["lesion_mask"], row["spacing_mm"]) for row in rows]
    cores = [value for value in measured if value is not None]
    assert 0 < len(cores) < len(rows)
    text = (config.out / "mottling.md").read_text()
    assert text.startswith(f"{len(cores)} lesions; real ones: {np.mean(cores):.1f} HU")
    assert "painted, shift 0 | painted, shift 0.5" in text and text.count("\n| tiny |") == 1


@pytest.mark.slow
def test_seam_asks_for_every_cause_and_continues(chain, nodules, tmp_path, monkeypatch):
    config = seam.SeamConfig(
        pipeline=str(chain.ldm / "pipeline"),
        data=nodules,
        out=tmp_path / "seam",
        margins_mm=(0, 2),
        blends_mm=(0, 1),
        blend_mm=1,
        steps=1,
        repeats=10,
        device="cpu",
    )
    seam.main(config)
    text = (config.out / "seam.md").read_text()
    assert [text.count(f"\n| {cause} |") for cause in ("decoder", "margin", "blend", "paste")] == [4, 2, 4, 8]

    monkeypatch.setattr(seam.LesionInpaintPipeline, "generate", lambda *_, **__: pytest.fail("made twice"))
    seam.main(config)
    assert (config.out / "seam.md").read_text() == text
    with pytest.raises(ValueError, match=r"other settings \(steps: 1 -> 2\)"):
        seam.main(replace(config, steps=2))


@pytest.mark.slow
def test_whole_scan_times_both_formats_and_finds_them_equal(chain, tmp_path, capsys):
    config = whole_scan.Config(
        pipeline=chain.ldm / "pipeline",
        shape=(45, 60, 66),
        spacing_mm=(5.0, 4.0, 4.0),
        steps=1,
        threads=1,
        work=tmp_path,
    )
    whole_scan.main(config)
    printed = capsys.readouterr().out
    assert "| NIfTI |" in printed and "| DICOM |" in printed and "both results are the same, to the bit" in printed
    nowhere = sitk.ReadImage(str(tmp_path / "NIfTI/paint_mask.nii.gz")) * 0
    sitk.WriteImage(nowhere, str(tmp_path / "NIfTI/paint_mask.nii.gz"))
    with pytest.raises(ValueError, match="expected a change in the painted region and nowhere else"):
        whole_scan.check(tmp_path)


def test_guidance_overhead_compares_every_kind_of_call_in_each_round(chain, capsys, monkeypatch):
    called = []
    generate = guidance_overhead.LesionInpaintPipeline.generate
    monkeypatch.setattr(
        guidance_overhead.LesionInpaintPipeline,
        "generate",
        lambda pipe, *given, **options: called.append(pipe.guide) or generate(pipe, *given, **options),
    )
    config = guidance_overhead.GuidanceConfig(str(chain.classifier / "pipeline"), crop_size=16, steps=1, repeats=2)
    guidance_overhead.main(config)
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    spaces = [f"| {space}, {requested}" for space in ("latent", "decoded") for requested in ("malignancy", "all four")]
    assert [row[0] for row in rows] == ["| unguided", *spaces]  # this U-Net has no attributes of its own
    assert rows[0][2] == "1.00 (1.00 … 1.00) |" and printed.count("(at most 2.2)") == 2
    kinds = [guide and guidance_overhead.decodes(guide) for guide in called]
    assert kinds[:5] == [None, False, False, True, True] and kinds[5:10] == [False, False, True, True, None]
    with pytest.raises(ValueError, match="repeats 0: expected at least 1"):
        guidance_overhead.GuidanceConfig(repeats=0)


@pytest.mark.slow
def test_plausibility_refuses_what_cannot_be_a_lesion(nodules, tmp_path, capsys):
    argv = ["--data", str(nodules)]
    launch(plausibility.main, parse_config(plausibility.Config, argv))
    printed = capsys.readouterr().out
    rows = dict(line.strip("| ").split(" | ", 1) for line in printed.splitlines() if line.startswith("| "))
    assert printed.startswith("12 lesions\n") and set(plausibility.CHANGES) < rows.keys()
    assert rows["none"].endswith("| 0%") and rows["air"].endswith("| 100%")  # farther from real ones than before
    (lesion, *_), _ = load_lesions(nodules, "validation")
    for name, change in plausibility.CHANGES.items():
        assert change(lesion, np.random.default_rng(0)).shape == lesion.ct_hu.shape, name


@pytest.mark.slow
def test_synthesize_counts_lesions_and_seconds_and_compares_the_files(chain, tmp_path, capsys):
    phantom = chest_phantom((40, 80, 96), (4.0, 3.0, 3.0), n_nodules=0, seed=1)
    write_ct(phantom_image(phantom), tmp_path / "scans/one.nii.gz")
    synthesize.main(
        synthesize.Config(
            scans=tmp_path / "scans",
            pipeline=str(chain.ldm / "pipeline"),
            lesions=2,
            lesions_per_scan=1,
            processes=(1, 2),
            options="--steps 1 --least-plausibility 0 --least-lung 0.5 --ranges.diameter_mm 6.5,9",
            work=tmp_path / "work",
        )
    )
    printed = capsys.readouterr().out
    assert "| 1 | " in printed and "| 2 | " in printed
    assert "the same 8 files, to the byte, by any number of processes" in printed
    assert not (tmp_path / "work/first/manifest.parquet").exists()


@pytest.mark.slow
def test_unet_sizes_measures_steps_and_calls_in_processes_of_their_own(capsys, monkeypatch):
    small = {"channels": (8, 16), "blocks_per_level": 1, "map_channels": 4, "num_labels": 3}
    monkeypatch.setattr(unet_sizes, "sizes", lambda: {"tiny": small, "wider": small | {"channels": (16, 16)}})
    unet_sizes.main(unet_sizes.Config(crop=16, batch=1, repeats=1))
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert [cells[:2] for cells in lines[2:]] == [["| tiny", "8, 16"], ["| wider", "16, 16"]]
    assert all("ms" in cell and "MiB" in cell for cells in lines[2:] for cell in cells[3:])
