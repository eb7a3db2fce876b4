from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation

from evaluation.lesions.lesion_sets import centre_slices, lesion_cube, load_lesions, match_pairs
from imaging.dataset.nodules import save_nodule_dataset
from imaging.window import to_norm


def _write_pair(folder, lesion, name=None, ct_hu=None, mask=None):
    ct = lesion.ct_hu if ct_hu is None else ct_hu
    for suffix, array in (("ct", ct), ("mask", (lesion.lesion_mask if mask is None else mask).astype(np.uint8))):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(lesion.spacing_mm[::-1])
        sitk.WriteImage(image, str(folder / f"{name or lesion.name}_{suffix}.nii.gz"))


def test_a_folder_and_a_prepared_dataset_give_the_same_lesions(tmp_path, make_lesion):
    lesions = [make_lesion(n, patient=f"p{n // 2}", shape=(20, 20, 20)) for n in range(4)]
    folder = tmp_path / "pairs"
    folder.mkdir()
    rounded = [replace(lesion, ct_hu=np.round(lesion.ct_hu).clip(-1024)) for lesion in lesions]
    for lesion in rounded:
        _write_pair(folder, lesion)
    lines = [f"{lesion.name},{lesion.patient_id},{'train' if n < 2 else 'test'}" for n, lesion in enumerate(rounded)]
    (folder / "nodules.csv").write_text("\n".join(["nodule,patient_id,split", *lines]))
    rows = [
        {
            "nodule_id": lesion.name,
            "patient_id": lesion.patient_id,
            "source": "test",
            "split": "train" if n < 2 else "test",
            "ct_hu": lesion.ct_hu,
            "lesion_mask": lesion.lesion_mask.astype(np.uint8),
            "valid_mask": np.ones(lesion.ct_hu.shape, np.uint8),
            "spacing_mm": np.ones(3, np.float32),
            "diameter_mm": 10.0,
            "volume_mm3": 500.0,
        }
        for n, lesion in enumerate(rounded)
    ]
    save_nodule_dataset(rows, tmp_path / "prepared", crop_size=20)
    for split, count in (("test", 2), ("all", 4)):
        from_folder, _ = load_lesions(folder, split)
        from_dataset, _ = load_lesions(tmp_path / "prepared", split)
        assert len(from_folder) == len(from_dataset) == count
        for a, b in zip(from_folder, from_dataset, strict=True):
            assert (a.name, a.patient_id, a.spacing_mm) == (b.name, b.patient_id, b.spacing_mm)
            np.testing.assert_array_equal(a.ct_hu, b.ct_hu)
            np.testing.assert_array_equal(a.lesion_mask, b.lesion_mask)
    for path in (folder, tmp_path / "prepared"):
        for stored, loaded in zip(load_lesions(path, "all", stored=True)[0], load_lesions(path, "all")[0], strict=True):
            assert not {"ct_hu", "lesion_mask", "valid_mask"} & set(vars(stored))  # no voxel is held
            moved = deepcopy(replace(stored, patient_id="other"))  # as between processes
            assert (moved.name, moved.patient_id, moved.mask_name) == (loaded.name, "other", loaded.mask_name)
            for name in ("ct_hu", "lesion_mask", "valid_mask", "spacing_mm"):
                np.testing.assert_array_equal(getattr(moved, name), getattr(loaded, name))
            with pytest.raises(AttributeError):
                _ = stored.no_such_attribute


def test_lesions_that_cannot_be_used_are_named(tmp_path, make_lesion):
    lesion = make_lesion(1)
    _write_pair(tmp_path, lesion, "good_seed1")
    _write_pair(tmp_path, lesion, "empty", mask=np.zeros_like(lesion.lesion_mask))
    _write_pair(tmp_path, lesion, "nan", ct_hu=np.where(lesion.lesion_mask, np.nan, lesion.ct_hu))
    _write_pair(tmp_path, lesion, "shape", mask=lesion.lesion_mask[1:])
    _write_pair(tmp_path, lesion, "alone")
    (tmp_path / "alone_mask.nii.gz").unlink()
    lesions, left_out = load_lesions(tmp_path, "all")
    assert [(found.name, found.mask_name, found.patient_id) for found in lesions] == [("good_seed1", "good", "good")]
    assert [sentence.split(":")[0] for sentence in left_out] == ["alone", "empty", "nan", "shape"]


def test_a_folder_without_lesions_is_refused(tmp_path, make_lesion):
    with pytest.raises(ValueError, match="expected a prepared dataset or a folder"):
        load_lesions(tmp_path, "test")
    _write_pair(tmp_path, make_lesion(1), mask=np.zeros((24, 26, 28)))
    with pytest.raises(ValueError, match=r"no usable lesion in split .test..*empty"):
        load_lesions(tmp_path, "test")
    (tmp_path / "nodules.csv").write_text("nodule,patient_id\nanother,p\n")
    with pytest.raises(ValueError, match="no row for lesion001"):
        load_lesions(tmp_path, "test")


def test_the_cube_at_1_mm_is_an_exact_crop_around_the_centroid(make_lesion):
    lesion = make_lesion(2, shape=(40, 42, 44))
    cube, mask = lesion_cube(lesion, side=24)
    z, y, x = np.round(np.argwhere(lesion.lesion_mask).mean(0)).astype(int)
    box = (slice(z - 12, z + 12), slice(y - 12, y + 12), slice(x - 12, x + 12))
    np.testing.assert_array_equal(cube, to_norm(lesion.ct_hu)[box])
    np.testing.assert_array_equal(mask, lesion.lesion_mask[box])
    np.testing.assert_array_equal(centre_slices(cube), [cube[12], cube[:, 12], cube[:, :, 12]])


def test_the_cube_undoes_another_spacing(make_lesion):
    lesion = make_lesion(3, shape=(40, 42, 44))
    doubled = replace(
        lesion,
        ct_hu=lesion.ct_hu.repeat(2, 0),
        lesion_mask=lesion.lesion_mask.repeat(2, 0),
        valid_mask=lesion.valid_mask.repeat(2, 0),
        spacing_mm=(0.5, 1.0, 1.0),
    )
    assert lesion_cube(doubled)[1].sum() == pytest.approx(lesion.lesion_mask.sum(), rel=0.05)


def test_beyond_the_rim_and_on_padding_the_cube_is_air(make_lesion):
    lesion = make_lesion(4)
    valid = lesion.valid_mask.copy()
    valid[:, :8] = False
    spoilt = replace(lesion, ct_hu=np.where(valid, lesion.ct_hu, np.nan), valid_mask=valid)
    cube, mask = lesion_cube(spoilt, rim=0)
    whole, _ = lesion_cube(lesion)
    np.testing.assert_array_equal(cube, np.where(mask & lesion_cube(replace(lesion, lesion_mask=valid))[1], whole, -1))
    near = binary_dilation(mask, iterations=2)
    np.testing.assert_array_equal(lesion_cube(lesion, rim=2)[0], np.where(near, whole, -1))


def test_pairs_need_the_same_name_shape_and_mask(make_lesion):
    real = [make_lesion(n) for n in range(3)]
    seeds = [replace(real[0], name="lesion000_seed1"), replace(real[0], name="lesion000_seed2")]
    other_mask = replace(real[1], lesion_mask=np.roll(real[1].lesion_mask, 1, 0))
    smaller = replace(real[2], **{k: getattr(real[2], k)[1:] for k in ("ct_hu", "lesion_mask", "valid_mask")})
    pairs, left_out = match_pairs(real, [*seeds, other_mask, smaller, make_lesion(9)])
    assert [(a.name, b.name) for a, b in pairs] == [("lesion000", s.name) for s in seeds]
    assert len(left_out) == 2 and "mask differs" in left_out[0] and "shape" in left_out[1]
