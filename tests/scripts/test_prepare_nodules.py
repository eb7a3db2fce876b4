import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from scipy.ndimage import gaussian_filter

from imaging.dataset.nodules import crop_size_of, load_nodules, read_nodule, spacing_mm_of
from imaging.dataset.sources import available_splits
from scripts.prepare_nodules import PrepareNodulesConfig, main

SPACING = (2.5, 0.8, 0.7)  # z, y, x in mm


def write_pair(folder, nodule, ct_hu, lesion_mask, spacing_mm=SPACING):
    for kind, array in (("ct", ct_hu), ("mask", lesion_mask)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing_mm[::-1])
        image.SetOrigin((-120.0, 30.0, 7.5))
        sitk.WriteImage(image, str(folder / f"{nodule}_{kind}.nii.gz"))


def ball(shape, centre, radius_mm, spacing_mm=SPACING):
    grid = np.stack(np.indices(shape), -1) - np.array(centre)
    return (np.linalg.norm(grid * spacing_mm, axis=-1) <= radius_mm).astype(np.uint8)


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "nodules"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for nodule in ("a", "b"):
        ct_hu = rng.integers(-1100, 200, (9, 30, 32)).astype(np.int16)
        ct_hu[0] = -2000
        write_pair(folder, nodule, ct_hu, ball(ct_hu.shape, (4, 14, 15), 5))
    table = pd.DataFrame({"nodule": ["a", "b"], "patient_id": ["p", "q"], "split": ["train", "test"]})
    table.assign(malignancy=[4, np.nan], manufacturer=["M", "N"], year=[2007, 2008]).to_csv(
        folder / "nodules.csv", index=False
    )
    return folder


def edit(data, **columns):
    table = pd.read_csv(data / "nodules.csv")
    table.assign(**columns).to_csv(data / "nodules.csv", index=False)


def test_pairs_become_centred_crops_at_the_asked_spacing(data, tmp_path, capsys):
    main(
        PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=24, spacing_mm=1.0, outline="union", workers=2)
    )
    dataset = load_nodules(tmp_path / "out", "train")
    assert crop_size_of(dataset) == 24 and spacing_mm_of(dataset) == (1, 1, 1)
    nodule = read_nodule(dataset, 0)
    centroid = np.argwhere(nodule["lesion_mask"]).mean(axis=0)
    np.testing.assert_allclose(centroid, 11.5, atol=0.3)
    assert nodule["ct_hu"].min() == -1024
    assert 0 < nodule["valid_mask"].sum() < 24**3
    volume_mm3 = 4 / 3 * np.pi * 5**3
    assert nodule["volume_mm3"] == pytest.approx(volume_mm3, rel=0.1)
    assert nodule["diameter_mm"] == pytest.approx(10, rel=0.04)
    assert nodule["lesion_mask"].sum() == pytest.approx(volume_mm3, rel=0.1)
    assert (
        nodule["malignancy"] == 4
        and nodule["manufacturer"] == "M"
        and nodule["year"] == 2007
        and nodule["source"] == "nodules"
    )
    assert np.isnan(read_nodule(load_nodules(tmp_path / "out", "test"), 0)["malignancy"])
    assert "train              0         0         0         1" in capsys.readouterr().out


@pytest.mark.parametrize("fill", ["edge", "air"])
def test_beyond_its_file_a_crop_repeats_the_edge_or_is_air(data, tmp_path, fill):
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=32, spacing_mm=1.0, fill=fill))
    nodule = read_nodule(load_nodules(tmp_path / "out", "train"), 0)
    known = np.flatnonzero(nodule["valid_mask"].any(axis=(0, 1)))
    beyond = nodule["ct_hu"][:, :, known[-1] + 2 :]
    assert beyond.shape[2] > 1 and (beyond == beyond[:, :, :1]).all()
    assert (beyond == -1024).all() == (fill == "air")


def test_native_spacing_copies_the_voxels_of_the_file(data, tmp_path):
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=6, spacing_mm=None, outline="union"))
    nodule = read_nodule(load_nodules(tmp_path / "out", "train"), 0)
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(data / "a_ct.nii.gz")))
    np.testing.assert_allclose(nodule["spacing_mm"], SPACING, rtol=1e-6)
    candidates = [np.maximum(whole[2:8, y : y + 6, x : x + 6], -1024) for y in (11, 12) for x in (12, 13)]
    candidates += [np.maximum(whole[1:7, y : y + 6, x : x + 6], -1024) for y in (11, 12) for x in (12, 13)]
    assert any(np.array_equal(nodule["ct_hu"], block) for block in candidates)


def test_approximate_patient_ids_and_given_diameters_are_taken(data, tmp_path):
    table = pd.read_csv(data / "nodules.csv").rename(columns={"patient_id": "patient_id_approx"})
    table.assign(diameter_mm=[8.5, np.nan]).to_csv(data / "nodules.csv", index=False)
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=16, outline="union"))
    nodule = read_nodule(load_nodules(tmp_path / "out", "train"), 0)
    assert nodule["diameter_mm"] == 8.5 and nodule["patient_id"] == "p"
    assert read_nodule(load_nodules(tmp_path / "out", "test"), 0)["diameter_mm"] == pytest.approx(10, rel=0.04)


def write_readers(folder, nodule, outlines):
    bits = sum(np.asarray(outline, np.uint8) << reader for reader, outline in enumerate(outlines))
    image = sitk.ReadImage(str(folder / f"{nodule}_mask.nii.gz"))
    readers = sitk.GetImageFromArray(bits.astype(np.uint8))
    readers.CopyInformation(image)
    sitk.WriteImage(readers, str(folder / f"{nodule}_readers.nii.gz"))


def prepared(data, out, **options):
    main(PrepareNodulesConfig(scans=data, out=out, crop_size=24, spacing_mm=1.0, validation_share=0, **options))
    return read_nodule(load_nodules(out, "train"), 0)


def test_a_consensus_is_what_half_of_the_readers_outlined(data, tmp_path):
    shape, centre = (9, 30, 32), (4, 14, 15)
    outlines = [ball(shape, centre, radius) for radius in (3, 4, 5)]
    write_readers(data, "a", [*outlines, np.zeros(shape)])  # the fourth saw no nodule here and does not count
    volume = prepared(data, tmp_path / "out", outline="consensus")["volume_mm3"]
    assert volume == pytest.approx(outlines[1].sum() * np.prod(SPACING), rel=1e-3)
    write_readers(data, "a", [outlines[0], np.roll(outlines[0], 10, 2), np.roll(outlines[0], -10, 2)])
    union = prepared(data, tmp_path / "none", outline="consensus")["volume_mm3"]  # they agree on no voxel
    assert union == pytest.approx(outlines[2].sum() * np.prod(SPACING), rel=1e-3)


def test_half_maximum_is_the_default_and_finds_the_lesion_inside_a_loose_mask(data, tmp_path):
    radius_mm, shape = 5.0, (13, 40, 42)
    centre = (6, 19, 20)
    random = np.random.default_rng(0)
    for nodule in ("a", "b"):
        ct_hu = -850 + random.normal(0, 20, shape) + 880 * gaussian_filter(ball(shape, centre, radius_mm) * 1.0, 0.7)
        write_pair(data, nodule, ct_hu.astype(np.int16), ball(shape, centre, radius_mm + 1.5))
    edit(data, texture=[5, 5])
    nodule = prepared(data, tmp_path / "out")
    assert nodule["diameter_mm"] == pytest.approx(2 * radius_mm, abs=0.6) and nodule["outline_fallback"] is None
    assert prepared(data, tmp_path / "union", outline="union")["diameter_mm"] > 12
    np.testing.assert_array_equal(nodule["solid_mask"], nodule["lesion_mask"])


def test_nodules_without_a_border_are_counted_with_the_reason(data, tmp_path, capsys):
    for nodule in ("a", "b"):
        write_pair(data, nodule, np.full((9, 30, 32), -850, np.int16), ball((9, 30, 32), (4, 14, 15), 5))
    assert prepared(data, tmp_path / "out")["outline_fallback"] == "low contrast"
    assert "no better one was found, of 2 nodules (low contrast)" in capsys.readouterr().out


def test_ratings_are_the_readers_means_where_each_readers_are_known(data, tmp_path):
    edit(data, texture=[5, 5])
    pd.DataFrame(
        {
            "nodule": ["a", "a", "a", "x"],
            "reader": [0, 1, 2, 0],
            "malignancy": [1, 2, 2, 5],
            "texture": [4, 5, np.nan, 1],
        }
    ).to_csv(data / "readers.csv", index=False)
    nodule = prepared(data, tmp_path / "out")
    assert nodule["malignancy"] == pytest.approx(5 / 3) and nodule["texture"] == 4.5
    assert read_nodule(load_nodules(tmp_path / "out", "test"), 0)["texture"] == 5
    pd.DataFrame({"nodule": ["a"], "malignancy": ["high"]}).to_csv(data / "readers.csv", index=False)
    with pytest.raises(ValueError, match=r"readers\.csv: columns malignancy: expected numbers"):
        prepared(data, tmp_path / "bad")


def test_a_true_patient_who_is_tested_on_is_not_trained_on(data, tmp_path, capsys):
    other = tmp_path / "other"
    other.mkdir()
    for nodule in ("c", "d"):
        write_pair(other, nodule, np.full((9, 30, 32), -850, np.int16), ball((9, 30, 32), (4, 14, 15), 5))
    table = pd.DataFrame({"nodule": ["c", "d"], "patient_id_approx": ["r", "s"], "split": ["train", "train"]})
    table.to_csv(other / "nodules.csv", index=False)
    patients = {"nodule": ["c", "d"], "patient_id": ["q", "q"], "confirmed": [1, 0]}
    pd.DataFrame(patients).to_csv(other / "patients.csv", index=False)
    main(PrepareNodulesConfig(scans=(data, other), out=tmp_path / "out", crop_size=16, validation_share=0))
    assert load_nodules(tmp_path / "out", "train")["nodule_id"][:] == ["a", "d"]
    assert load_nodules(tmp_path / "out", "test")["nodule_id"][:] == ["b"]
    assert "1 nodules left out, whose patients another folder tests on or watches: q" in capsys.readouterr().out


def test_a_lesion_larger_than_the_crop_is_kept_and_reported(data, tmp_path, capsys):
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=8, spacing_mm=1.0))
    assert "2 lesions are larger than the crop and were cut: a, b" in capsys.readouterr().out
    assert load_nodules(tmp_path / "out", "train")["nodule_id"][:] == ["a"]


def test_a_second_run_refuses_and_overwrite_replaces(data, tmp_path):
    config = PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=8)
    main(config)
    with pytest.raises(ValueError, match="is a prepared dataset already"):
        main(config)
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=12, overwrite=True))
    assert crop_size_of(load_nodules(tmp_path / "out", "test")) == 12


def test_every_problem_of_the_table_is_told_at_once(data, tmp_path):
    (data / "b_mask.nii.gz").unlink()
    table = pd.concat([pd.read_csv(data / "nodules.csv")] * 2)
    table = table.assign(split=["train", "val", "test", None], malignancy="high")
    table.to_csv(data / "nodules.csv", index=False)
    with pytest.raises(ValueError, match="problems") as error:
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out"))
    for message in (
        "b_mask.nii.gz: no such file",
        "b: split 'val', expected one of 'train', 'validation', 'test'",
        "b: no split",
        "a: in the table more than once",
        "patient p: in both splits",
        "column malignancy: expected numbers",
    ):
        assert message in str(error.value)


def test_a_missing_table_or_column_is_named(data, tmp_path):
    edit(data, nodule_id=["a", "b"])
    with pytest.raises(ValueError, match="has the columns nodule and nodule_id; remove one"):
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out"))
    pd.read_csv(data / "nodules.csv").drop(columns=["nodule_id"]).to_csv(data / "nodules.csv", index=False)
    edit(data, nodule=["a", "b"])
    pd.read_csv(data / "nodules.csv").drop(columns=["split"]).to_csv(data / "nodules.csv", index=False)
    with pytest.raises(ValueError, match="lacks the columns split; it has nodule, patient_id"):
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out"))
    (data / "nodules.csv").unlink()
    with pytest.raises(ValueError, match=r"nodules\.csv: no such file"):
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out"))


def test_every_file_that_cannot_be_used_is_named_and_nothing_is_written(data, tmp_path):
    write_pair(data, "a", np.zeros((4, 5, 6), np.int16), np.zeros((4, 5, 6), np.uint8))
    write_pair(data, "b", np.zeros((4, 5, 6), np.int16), np.ones((4, 5, 7), np.uint8))
    with pytest.raises(ValueError, match="2 nodules cannot be used") as error:
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out"))
    assert "a_mask.nii.gz: the mask is empty" in str(error.value)
    assert "b_mask.nii.gz: (4, 5, 7) voxels (z, y, x), but the CT has (4, 5, 6)" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_sizes_that_are_not_positive_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="crop_size 0"):
        main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=0))


@pytest.mark.real_data
@pytest.mark.slow
@pytest.mark.parametrize(("folder", "spacing_mm"), [("nodules_iso51", 1.0), ("nodules_native", None)])
def test_real_nodules_keep_their_volume_and_split(folder, spacing_mm, tmp_path, real_data_dir):
    source = real_data_dir / folder
    table = pd.read_csv(source / "nodules.csv").iloc[::20]
    data = tmp_path / "data"
    data.mkdir()
    table.to_csv(data / "nodules.csv", index=False)
    for nodule in table.nodule:
        for kind in ("ct", "mask"):
            (data / f"{nodule}_{kind}.nii.gz").symlink_to(source / f"{nodule}_{kind}.nii.gz")
    main(PrepareNodulesConfig(scans=data, out=tmp_path / "out", crop_size=64, spacing_mm=spacing_mm, outline="union"))
    splits = {split: load_nodules(tmp_path / "out", split) for split in available_splits(tmp_path / "out")}
    ids = {split: dataset["nodule_id"][:] for split, dataset in splits.items()}
    assert ids.get("test", []) == table.nodule[table.split == "test"].tolist()
    assert sorted(ids["train"] + ids["validation"]) == sorted(table.nodule[table.split == "train"])
    for dataset in splits.values():
        nodules = [read_nodule(dataset, index) for index in range(len(dataset))]
        cropped = np.array([n["lesion_mask"].sum() * np.prod(n["spacing_mm"]) for n in nodules])
        np.testing.assert_allclose(cropped, [n["volume_mm3"] for n in nodules], rtol=1e-4)


def test_the_old_name_of_scans_is_taken_with_a_warning(data, tmp_path, capsys):
    old = PrepareNodulesConfig(data=data, out=tmp_path / "out")
    assert "warning: --data is now --scans" in capsys.readouterr().err
    assert (old.scans, old.data) == (data, None)
    with pytest.raises(ValueError, match="--scans and --data are the same option; pass --scans alone"):
        PrepareNodulesConfig(data=data, scans=data, out=tmp_path / "out")
    with pytest.raises(ValueError, match="nothing to read; pass --scans"):
        PrepareNodulesConfig(out=tmp_path / "out")
