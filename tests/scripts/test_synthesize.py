"""Lesions by the number: the same whatever makes them, none lost or doubled by a kill, every rejected sample told."""

import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from dicom_factory import write_dicom_series
from filelock import FileLock
from forked import PATIENCE_S, expect, start, start_ranks
from scipy import ndimage
from tiny_models import randomised

from diffusion import LesionInpaintPipeline
from diffusion.unet import SPADEUNet3D
from evaluation.lesions.synthesis import APART_MM
from foundation.config import launch, parse_config
from imaging.files.ct import read_ct, write_ct
from imaging.geometry import index_of_point
from imaging.lesions.sites import find_lesion_sites
from imaging.phantom.chest import chest_phantom, phantom_image
from scripts.synthesize import SynthesizeConfig, main

SHAPE, SPACING_MM = (40, 80, 96), (4.0, 3.0, 3.0)
LESIONS, PER_SCAN = 8, 2


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> Path:
    """A NIfTI file, and a DICOM series in a folder of its own."""
    root = tmp_path_factory.mktemp("scans")
    phantoms = [chest_phantom(SHAPE, SPACING_MM, n_nodules=0, seed=seed) for seed in (1, 2)]
    write_ct(phantom_image(phantoms[0]), root / "one.nii.gz")
    write_dicom_series(root / "patients/two", phantoms[1].ct_hu, SPACING_MM)
    return root


@pytest.fixture(scope="module")
def pipeline(chain, tmp_path_factory) -> Path:
    """A pipeline that can be requested two attributes, and has learnt nothing."""
    folder = tmp_path_factory.mktemp("requested") / "pipeline"
    pipe = LesionInpaintPipeline.from_pretrained(chain.ldm / "pipeline")
    requested = SPADEUNet3D.from_config({**pipe.unet.config, "attributes": ["texture", "mean_hu"]})
    pipe.register_modules(unet=randomised(requested))
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def options(scans, pipeline) -> list[str]:
    """A few small lesions of a pipeline that has learnt nothing, all let pass."""
    given = {
        "scans": scans,
        "no-nodules-known": "true",
        "pipeline": pipeline,
        "lesions": LESIONS,
        "lesions-per-scan": PER_SCAN,
        "ranges.diameter_mm": "6.5,9",
        "hu-tolerance": "null",
        "least-plausibility": 0,
        "least-lung": 0.5,
        "steps": 2,
        "seed": 5,
        "device": "cpu",
    }
    return [text for name, value in given.items() for text in (f"--{name}", str(value))]


def config_of(options: list[str], out: Path, *more: str) -> SynthesizeConfig:
    return parse_config(SynthesizeConfig, [*options, "--out", str(out), *more])


@pytest.fixture(scope="module")
def made(options, tmp_path_factory) -> Path:
    """What an undisturbed process makes."""
    out = tmp_path_factory.mktemp("made") / "out"
    main(config_of(options, out))
    return out


def contents(out: Path) -> dict[str, bytes]:
    """Every file but locks, by its path."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def rows(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "manifest.parquet")


def source_of(row, scans: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(read_ct(scans / row.scan))


def test_every_scan_is_its_source_but_for_lesions_where_the_manifest_says(made, scans):
    table = rows(made)
    accepted = table[table.accepted]
    assert sorted(accepted.lesion) == list(range(LESIONS)) and set(table.scan) == {"one.nii.gz", "patients/two"}
    for output, group in accepted.groupby("output"):
        ct, labels = (array(made / "scans" / output / f"{name}.nii.gz") for name in ("ct", "lesions"))
        source = source_of(group.iloc[0], scans)
        assert set(np.unique(labels)) == {0, *group.label} and ct.shape == SHAPE
        changed = ct != source
        near = np.zeros(SHAPE, bool)
        for row in group.itertuples():
            mask = labels == row.label
            indices = np.argwhere(mask)
            assert list(row.box_zyx) == [*indices.min(0), *indices.max(0) + 1]
            assert row.volume_mm3 == pytest.approx(mask.sum() * np.prod(SPACING_MM))
            assert labels[tuple(np.rint(row.center_zyx).astype(int))] == row.label
            assert changed[mask].mean() > 0.5
            first, last = np.maximum(indices.min(0) - 2, 0), indices.max(0) + 3  # 3 mm and a voxel to spare
            near[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
        assert not (changed & ~near).any()


def test_the_manifest_is_read_by_datasets_and_tells_the_fate_of_every_sample(made, tmp_path):
    files, cache = str(made / "manifest.parquet"), str(tmp_path)
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache).to_pandas()
    pd.testing.assert_frame_equal(table.dropna(axis=1, how="all"), rows(made).dropna(axis=1, how="all"))
    for _, samples in table.groupby("lesion"):
        assert list(samples.attempt) == list(range(len(samples)))
        assert list(samples.accepted) == [False] * (len(samples) - 1) + [True]
        assert samples.reason.notna().tolist() == (~samples.accepted).tolist()
        assert samples.noise_seed.nunique() == len(samples) and samples.requested_mean_hu.nunique() == 1
    assert table[table.accepted].noise_seed.nunique() == LESIONS
    parts = [pd.read_parquet(path) for path in sorted(made.glob("scans/*/lesions.parquet"))]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), rows(made))


@pytest.mark.slow
def test_two_processes_make_the_files_of_one(made, options, tmp_path):
    log = tmp_path / "log"
    for process in start_ranks(2, "synthesize", [*options, "--out", tmp_path / "two"], log):
        expect(process, log)
    assert log.read_text().count("this process's share: 2 of 2 scans made") == 2
    assert contents(tmp_path / "two") == contents(made)


def test_the_union_of_all_shards_is_the_whole(made, options, tmp_path, capsys):
    out = tmp_path / "out"
    for shard in ("2/3", "3/3", "1/3"):
        assert not (out / "manifest.parquet").exists()
        main(config_of(options, out, "--shard", shard))
    assert "2 of 4 scans are not there yet" not in capsys.readouterr().out.splitlines()[-1]
    assert contents(out) == contents(made)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_without_a_lost_or_doubled_lesion(made, options, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    argv = [*options, "--out", out]
    process = start("synthesize", argv, log)
    deadline = time.monotonic() + PATIENCE_S
    while not list(out.glob("scans/0*")) or not list(out.glob("scans/.tmp.*")):  # in the midst of a later one's files
        assert process.exitcode is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.0005)
    process.kill()
    expect(process, log, -signal.SIGKILL)
    there = {path: path.stat().st_mtime_ns for path in out.glob("scans/0*/*")}
    assert 0 < len(there) < 3 * LESIONS // PER_SCAN and not (out / "manifest.parquet").exists()
    expect(start("synthesize", argv, log), log)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert contents(out) == contents(made)


def test_lesions_of_several_scans_are_painted_together_and_do_not_depend_on_who_is_in_a_batch(
    made, options, tmp_path, monkeypatch
):
    batches = []
    forward = SPADEUNet3D.forward

    def noted(self, sample, *more, **options):
        batches.append(len(sample))
        return forward(self, sample, *more, **options)

    monkeypatch.setattr(SPADEUNet3D, "forward", noted)
    main(config_of(options, tmp_path / "whole", "--batch-size", "3"))
    assert set(batches) == {3}
    for shard in ("2/3", "1/3", "3/3"):
        main(config_of(options, tmp_path / "shards", "--batch-size", "3", "--shard", shard))
    assert contents(tmp_path / "shards") == contents(tmp_path / "whole")
    alone, together = rows(made), rows(tmp_path / "whole")
    same = [*("lesion", "attempt", "noise_seed", "mask_seed", "requested_mean_hu", "volume_mm3"), "accepted"]
    pd.testing.assert_frame_equal(alone[same], together[same])
    for path in made.glob("scans/*/ct.nii.gz"):
        other = array(tmp_path / "whole" / path.relative_to(made))
        assert np.abs(array(path).astype(int) - other).max() <= 1  # HU, by rounding


def test_more_lesions_are_added_to_those_that_are_there(made, options, tmp_path):
    out = tmp_path / "out"
    main(config_of(options, out, "--lesions", "4"))
    some = contents(out)
    with pytest.raises(ValueError, match="holds scan 000001, more than --lesions 2 asks for"):
        main(config_of(options, out, "--lesions", "2"))
    main(config_of(options, out))
    assert contents(out) == contents(made)
    del some["manifest.parquet"]
    assert some.items() < contents(made).items()


def test_what_another_process_has_in_hand_is_left_to_it(options, tmp_path, capsys):
    out = tmp_path / "out"
    config = config_of(options, out, "--lesions", "4")
    (out / ".locks").mkdir(parents=True)
    with FileLock(out / ".locks/000001"):
        main(config)
    assert [path.name for path in out.glob("scans/0*")] == ["000000"] and not (out / "manifest.parquet").exists()
    said = capsys.readouterr().out
    assert "1 of 2 scans made, 1 there already or in other hands" in said and "1 of 2 scans are not there yet" in said
    main(config)
    assert len(list(out.glob("scans/0*"))) == 2 and (out / "manifest.parquet").exists()


def test_samples_are_rejected_for_stated_reasons_and_leave_no_trace_in_the_images(options, tmp_path, capsys):
    out = tmp_path / "out"
    strict = ["--hu-tolerance", "40", "--least-plausibility", "0.5", "--attempts", "3", "--lesions", "4"]
    main(config_of(options, out, *strict, "--ranges.mean_hu", "-700,-100", "--hu-scale", "0"))
    table = rows(out)
    reasons = Counter(table.reason.dropna())
    assert reasons["HU not as requested"] and reasons["implausible"]  # three steps of training teach nothing
    for row in table.itertuples():
        blurred = row.grid_share * row.requested_mean_hu + (1 - row.grid_share) * row.around_hu
        nearest = np.clip(row.mean_hu, *sorted((blurred, row.requested_mean_hu)))
        far = abs(row.mean_hu - nearest) > 40
        expected = "HU not as requested" if far else "implausible" if row.plausibility < 0.5 else None
        if row.reason in ("HU not as requested", "implausible", None):
            assert row.reason == expected
    given_up = table.groupby("lesion").accepted.sum() == 0
    assert given_up.any() and (table.groupby("lesion").attempt.max()[given_up] == 2).all()
    for output, group in table.groupby("output"):
        files = {path.name for path in (out / "scans" / output).iterdir()}
        assert ("ct.nii.gz" in files) == ("lesions.nii.gz" in files) == bool(group.accepted.any())
    assert f"{table.accepted.sum()} of 4 lesions in" in capsys.readouterr().out


def test_a_place_that_cannot_be_had_is_a_reason(options, tmp_path):
    out = tmp_path / "out"
    large = ["--population", "uniform", "--ranges.diameter_mm", "110,120", "--lesions", "2", "--attempts", "2"]
    main(config_of(options, out, *large))
    assert list(rows(out).reason) == ["no site"] * 4 and rows(out).detail.str.startswith("found 0 places").all()
    assert [path.name for path in (out / "scans/000000").iterdir()] == ["lesions.parquet"]


@pytest.fixture(scope="module")
def own_nodules(scans, tmp_path_factory) -> Path:
    """Label images of the scans: two nodules in the first, where lesions would be put, and none in the other."""
    root = tmp_path_factory.mktemp("masks")
    ct = read_ct(scans / "one.nii.gz")
    sites = find_lesion_sites(ct, 20.0, 2)
    labels = np.zeros(SHAPE, np.uint8)
    for label, site in zip((3, 7), sites, strict=True):
        z, y, x = (round(at) for at in index_of_point(ct, site))
        labels[z - 1 : z + 2, y - 2 : y + 3, x - 2 : x + 3] = label
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(ct)
    write_ct(image, root / "one.nii.gz")
    empty = sitk.Image(image) * 0
    empty.CopyInformation(read_ct(scans / "patients/two"))
    write_ct(empty, root / "patients/two.nii.gz")
    return root


def test_nodules_that_are_in_a_scan_are_labelled_with_their_source_and_no_lesion_comes_near(
    options, own_nodules, scans, tmp_path
):
    out, masks = tmp_path / "out", array(own_nodules / "one.nii.gz")
    layout = ["--layout", "nnunet"]
    main(config_of(options, out, "--no-nodules-known", "false", "--existing-masks", str(own_nodules), *layout))
    table = rows(out)
    assert table.groupby("scan").patient.unique().str.len().tolist() == [1, 1]
    cases = pd.read_csv(out / "nnunet/cases.csv")
    assert cases.groupby(["scan", "kind"]).case.count().tolist() == [1, 2, 1, 2]  # each real scan, and twice synthetic
    assert (cases.groupby("patient").fold.nunique() == 1).all() and cases.fold.nunique() == 2
    assert cases.synthetic_lesions.sum() == table.accepted.sum()
    assert (cases[cases.scan == "one.nii.gz"].own_nodules == 2).all()
    existing = table[table.source != "synthetic"]
    assert set(existing.output) == set(table[table.scan == "one.nii.gz"].output)
    assert set(table[table.scan == "one.nii.gz"].nodules_from) == {"one.nii.gz"}
    assert set(table[table.scan == "patients/two"].nodules_from) == {"two.nii.gz"}
    assert not existing.accepted.any() and existing.lesion.isna().all()
    for output, group in existing.groupby("output"):
        assert list(group.source) == ["one.nii.gz: nodule 1", "one.nii.gz: nodule 2"]
        assert list(group.label) == [PER_SCAN + 1, PER_SCAN + 2]
        ct, labels = (array(out / "scans" / output / f"{name}.nii.gz") for name in ("ct", "lesions"))
        for row, value in zip(group.itertuples(), (3, 7), strict=True):
            np.testing.assert_array_equal(labels == row.label, masks == value)
            indices = np.argwhere(masks == value)
            assert list(row.box_zyx) == [*indices.min(0), *indices.max(0) + 1]
        np.testing.assert_array_equal(ct[masks > 0], source_of(group.iloc[0], scans)[masks > 0])
        near = ndimage.distance_transform_edt(masks == 0, sampling=SPACING_MM)
        new = labels[(labels > 0) & (labels <= PER_SCAN)]
        assert new.size and near[(labels > 0) & (labels <= PER_SCAN)].min() > APART_MM - np.linalg.norm(SPACING_MM)


def test_a_scan_taken_as_one_without_nodules_says_so(made):
    assert set(rows(made).nodules_from) == {"none known"} and set(rows(made).source) == {"synthetic"}


def test_scans_whose_nodules_nobody_names_are_refused_with_both_remedies(options, own_nodules, tmp_path):
    with pytest.raises(SystemExit, match=r"labelled as background: .*--existing-masks.*--no-nodules-known true"):
        config_of(options, tmp_path / "out", "--no-nodules-known", "false")
    one = str(own_nodules / "patients/two.nii.gz")
    message = r"no file for 1 of 2 scans, the first is one.nii.gz; .*--no-nodules-known true"
    with pytest.raises(SystemExit, match=message):
        launch(main, config_of(options, tmp_path / "out", "--no-nodules-known", "false", "--existing-masks", one))
    assert not (tmp_path / "out").exists()


def test_lesions_of_a_scan_keep_apart(options, tmp_path):
    out = tmp_path / "out"
    crowded = ["--lesions-per-scan", "8", "--attempts", "6", "--ranges.diameter_mm", "6.5,7.5"]
    main(config_of(options, out, *crowded))
    table = rows(out).query("accepted")
    assert len(table) >= 4
    sites = np.array(table.center_mm.tolist())
    apart = np.linalg.norm(sites[:, None] - sites[None], axis=-1)[np.triu_indices(len(sites), 1)]
    assert apart.min() > 6.5 + APART_MM
    assert set(table.site) == {"auto"} and (table.wall_mm > 2).all()  # a ball at the wall is cut by 2/5 of its radius


def test_a_scan_that_cannot_be_used_costs_its_own_lesions_alone(options, scans, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "a.nii.gz").write_bytes((scans / "one.nii.gz").read_bytes())
    (folder / "b.nii.gz").write_bytes((scans / "one.nii.gz").read_bytes()[:5000])
    write_ct(sitk.GetImageFromArray(np.full((12, 20, 24), 40, np.int16)), folder / "c.nii.gz")
    out = tmp_path / "out"
    main(config_of(options, out, "--scans", str(folder), "--lesions", "6"))
    table = rows(out)
    assert table[table.accepted].scan.tolist() == ["a.nii.gz"] * 2
    unusable = table[table.scan != "a.nii.gz"].sort_values("scan")
    assert unusable.reason.tolist() == ["scan not usable"] * 4 and unusable.lesion.nunique() == 4
    for name, detail in zip(unusable.scan, unusable.detail, strict=True):
        assert detail.startswith(f"{folder / name}: ")


def test_a_balance_is_requested_told_and_kept_by_the_folder(options, tmp_path, capsys):
    out, table = tmp_path / "out", tmp_path / "mix.csv"
    table.write_text("attribute,low,high,share\ntexture,1,2.5,1\ntexture,3.5,5,3\n")
    main(config_of(options, out, "--balance", str(table)))
    made = rows(out)
    requested = made.drop_duplicates("lesion").set_index("lesion").requested_texture
    assert (requested <= 2.5).sum() == LESIONS / 4 and (requested >= 3.5).sum() == 3 * LESIONS / 4
    assert set(made.balance) == {"texture 1 to 2.5", "texture 3.5 to 5"}
    told = pd.read_csv(out / "balance.csv")
    assert told.share.tolist() == told.requested.tolist() == [0.25, 0.75]
    assert "texture 3.5 to 5" in capsys.readouterr().out
    table.write_text("attribute,low,high,share\ntexture,1,2.5,1\ntexture,3.5,5,1\n")
    with pytest.raises(ValueError, match=r"other settings \(balance: "):
        main(config_of(options, out, "--balance", str(table)))
    table.write_text("attribute,low,high,share\nmalignancy,1,5,1\n")
    with pytest.raises(
        ValueError, match=r"balance: this pipeline cannot be requested malignancy; it knows texture, mean"
    ):
        main(config_of(options, tmp_path / "other", "--balance", str(table)))
    table.write_text("attribute,low,high,share\ntexture,1,5,1\n")
    with pytest.raises(ValueError, match=r"texture is requested of every lesion by --attributes.texture"):
        main(config_of(options, tmp_path / "other", "--balance", str(table), "--attributes.texture", "3"))


def test_a_layout_of_the_scans_of_one_patient_is_refused_before_anything_is_made(options, scans, tmp_path):
    with pytest.raises(ValueError, match="1 patient, expected at least 2"):
        main(config_of(options, tmp_path / "out", "--layout", "monai", "--scans", str(scans / "patients")))
    assert not (tmp_path / "out").exists()


def test_crops_are_boxes_of_the_scan_with_its_lesion(made, options, tmp_path):
    out = tmp_path / "out"
    main(config_of(options, out, "--write", "crops", "--lesions", "2"))
    whole = rows(made).query("lesion < 2 and accepted")
    assert rows(out).query("accepted").noise_seed.tolist() == whole.noise_seed.tolist()
    for row in whole.itertuples():
        crop, mask = (read_ct_or_mask(out / f"scans/000000/{row.lesion:07d}_{kind}.nii.gz") for kind in ("ct", "mask"))
        ct, labels = (sitk.ReadImage(str(made / f"scans/000000/{name}.nii.gz")) for name in ("ct", "lesions"))
        place = ct.TransformPhysicalPointToIndex(crop.GetOrigin())
        box = tuple(slice(at, at + size) for at, size in zip(place, crop.GetSize(), strict=True))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(crop), sitk.GetArrayFromImage(ct[box]))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(mask), sitk.GetArrayFromImage(labels[box]) == row.label)
    assert not list(out.rglob("ct.nii.gz"))


def read_ct_or_mask(path: Path) -> sitk.Image:
    return sitk.ReadImage(str(path))


def test_a_time_limit_ends_a_run_that_the_same_command_continues(made, options, tmp_path, capsys):
    out = tmp_path / "out"
    main(config_of(options, out, "--max-minutes", "0"))
    assert "time limit of 0 minutes: run the same command to go on" in capsys.readouterr().out
    assert not list(out.glob("scans/0*"))
    main(config_of(options, out))
    assert contents(out) == contents(made)


def test_other_settings_are_refused_in_a_folder_that_holds_lesions(made, options, tmp_path):
    with pytest.raises(ValueError, match=r"other settings \(seed: 5 -> 6\)"):
        main(replace(config_of(options, made), seed=6))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt and no settings.json; choose another --out or empty it"):
        main(config_of(options, tmp_path))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lesions", "7"], "lesions 7, lesions_per_scan 2: expected a multiple of the second"),
        (["--lesions-per-scan", "400", "--lesions", "400"], "which is at most 255"),
        (["--attempts", "0"], "attempts 0, expected at least 1"),
        (["--batch-size", "0"], "batch_size 0, expected at least 1"),
        (["--shard", "0/3"], "shard '0/3', expected i/n with i from 1 to n, such as 1/4"),
        (["--shard", "4/3"], "shard '4/3', expected i/n"),
        (["--least-plausibility", "1.5"], "least_plausibility 1.5, expected a share from 0 to 1"),
        (["--hu-tolerance", "0"], "hu_tolerance 0.0, expected HU above 0, or null"),
        (["--ranges.colour", "1,2"], 'ranges: attribute "colour" is unknown; known: diameter_mm'),
        (["--attributes.colour", "1"], 'attribute "colour" is unknown to this pipeline'),
        (["--attributes.mean_hu", "9000"], "mean_hu: 9000.*, expected a number from -1000 to 1000"),
        (["--layout", "monai", "--write", "crops"], "layout monai: is made of whole scans; take --write scans or both"),
        (["--balance", "nope"], "balance nope: no such file; expected equal, lidc"),
        (["--balance", "equal"], "balance: no real lesion within the ranges is in the class diameter_mm 4 to 6"),
        (["--balance", "equal", "--population", "uniform"], "balance: weights real lesions; take --population real"),
        (["--blend-mm", "-1"], "blend_mm -1.0, expected a finite number of at least 0"),
    ],
)
def test_options_that_do_not_fit_are_named_before_anything_is_made(options, tmp_path, more, message):
    with pytest.raises(SystemExit, match=message):
        launch(main, config_of(options, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_an_output_folder_among_the_scans_and_a_folder_without_scans_are_refused(options, scans, tmp_path):
    with pytest.raises(ValueError, match=r"lies below --scans .*, where it would be taken for a source"):
        main(config_of(options, scans / "out"))
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(ValueError, match="no DICOM series, no NIfTI and no MetaImage file below it; check --scans"):
        main(config_of(options, tmp_path / "out", "--scans", str(folder)))
