import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from imaging.dataset.lab_files import lab_to_hu, read_lab_nodule, read_lab_table, read_mat, read_npy
from imaging.window import to_norm

SHAPE = (7, 12, 15)  # z, y, x
SPACING = (2.0, 0.8, 0.7)


@pytest.fixture
def volume():
    rng = np.random.default_rng(0)
    ct_hu = rng.integers(-1000, 300, SHAPE).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 4:9, 6:11] = 1
    return ct_hu, mask


def save_mat73(path, names, as_struct=False):
    """As MATLAB does: an HDF5 file behind a block of 512 bytes that names the version, axes reversed."""
    with h5py.File(path, "w", userblock_size=512) as file:
        group = file.create_group("nodule") if as_struct else file
        for name, array in names.items():
            group[name] = array.T
    with path.open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def matlab_names(ct_hu, mask):
    """MATLAB's order: row, column, slice."""
    return {"TDM_VOI": ct_hu.transpose(1, 2, 0), "Seg_VOI": mask.transpose(1, 2, 0)}


@pytest.mark.parametrize("version", ["5", "5 struct", "7.3", "7.3 struct"])
def test_matlab_files_of_both_versions_come_as_z_y_x(tmp_path, volume, version):
    path, names = tmp_path / "a.mat", matlab_names(*volume)
    if version.startswith("5"):
        savemat(path, {"nodule": names} if "struct" in version else names)
    else:
        save_mat73(path, names, as_struct="struct" in version)
    for read, expected in zip(read_mat(path), volume, strict=True):
        np.testing.assert_array_equal(read, expected)


def test_every_declared_intensity_gives_the_same_hounsfield_units(volume):
    ct_hu = np.clip(volume[0], -1024, 300)
    ct_norm = to_norm(ct_hu)
    for array, intensity in [
        (ct_hu, "hu"),
        (ct_norm, "signed_unit"),
        ((ct_norm + 1) / 2, "unit"),
        ((ct_norm + 1) / 2 * 255, "byte"),
    ]:
        np.testing.assert_allclose(lab_to_hu(array, intensity), ct_hu, atol=1e-3)
    rounded = lab_to_hu(np.rint((ct_norm + 1) / 2 * 255).astype(np.uint8), "byte")
    assert np.abs(rounded - ct_hu).max() <= 1500 / 255 / 2 + 1e-3


@pytest.mark.parametrize(
    ("low", "high", "intensity", "message"),
    [
        (-1, 1, "hu", "declared as HU, but the values span -1 to 1"),
        (0, 255, "hu", "Was a window applied"),
        (-1000, 300, "signed_unit", "declared as signed_unit"),
        (0, 1, "signed_unit", "declared as signed_unit"),
        (-1, 1, "unit", "declared as unit"),
        (0, 1, "byte", "declared as byte"),
        (0, 4000, "byte", "declared as byte"),
        (0, 1, "percent", "intensity 'percent'"),
        (np.nan, 1, "unit", "NaN or infinite"),
    ],
)
def test_a_declaration_that_the_voxels_contradict_is_refused(low, high, intensity, message):
    with pytest.raises(ValueError, match=message):
        lab_to_hu(np.array([[[low, high]]], np.float32), intensity)


def write_table(folder, **columns):
    table = {"nodule": ["a"], "patient_id": ["p"], "ct": ["a.mat"]}
    table |= {"spacing_z_mm": [SPACING[0]], "spacing_y_mm": [SPACING[1]], "spacing_x_mm": [SPACING[2]]}
    pd.DataFrame({k: v for k, v in (table | columns).items() if v is not None}).to_csv(folder / "t.csv", index=False)
    return folder / "t.csv"


@pytest.mark.parametrize("axes", ["zyx", "yxz", "xyz"])
def test_numpy_pairs_and_matlab_give_the_same_row(tmp_path, volume, axes):
    savemat(tmp_path / "a.mat", matlab_names(*volume))
    for name, array in zip(("ct", "mask"), volume, strict=True):
        np.save(tmp_path / f"{name}.npy", array.transpose(["zyx".index(axis) for axis in axes]))
    (mat,) = read_lab_table(write_table(tmp_path, malignancy=[4.0], split=["test"]))
    (npy,) = read_lab_table(write_table(tmp_path, ct=["ct.npy"], mask=["mask.npy"]))
    assert (mat["malignancy"], mat["split"], npy["malignancy"], npy["split"]) == (4.0, "test", None, None)
    rows = [read_lab_nodule(mat, 5, None, "hu"), read_lab_nodule(npy, 5, None, "hu", axes)]
    for name in rows[0]:
        np.testing.assert_array_equal(rows[0][name], rows[1][name])
    np.testing.assert_allclose(rows[0]["spacing_mm"], SPACING)
    assert rows[0]["volume_mm3"] == pytest.approx(3 * 5 * 5 * np.prod(SPACING))
    box = np.s_[1:6, 4:9, 6:11]  # around the lesion's centre
    np.testing.assert_array_equal(rows[0]["ct_hu"], volume[0][box])
    np.testing.assert_array_equal(rows[0]["lesion_mask"], volume[1][box])


def test_files_that_cannot_be_used_are_named(tmp_path, volume):
    ct_hu, mask = volume
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy: cannot be read as a plain NumPy array"):
        read_npy(tmp_path / "objects.npy")
    savemat(tmp_path / "one.mat", {"TDM_VOI": ct_hu})
    with pytest.raises(ValueError, match=r"one\.mat: lacks Seg_VOI"):
        read_mat(tmp_path / "one.mat")
    savemat(tmp_path / "whole.mat", matlab_names(ct_hu, mask))
    (tmp_path / "cut.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:700])
    with pytest.raises(ValueError, match=r"cut\.mat: cannot be read"):
        read_mat(tmp_path / "cut.mat")
    save_mat73(tmp_path / "whole73.mat", matlab_names(ct_hu, mask))
    (tmp_path / "cut73.mat").write_bytes((tmp_path / "whole73.mat").read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut73\.mat: cannot be read"):
        read_mat(tmp_path / "cut73.mat")
    savemat(tmp_path / "flat.mat", {"TDM_VOI": ct_hu[0], "Seg_VOI": mask[0]})
    with pytest.raises(ValueError, match="expected a 3D volume"):
        read_mat(tmp_path / "flat.mat")
    savemat(tmp_path / "a.mat", matlab_names(ct_hu, 0 * mask))
    (row,) = read_lab_table(write_table(tmp_path))
    with pytest.raises(ValueError, match=r"a\.mat: the lesion mask is empty"):
        read_lab_nodule(row, 6, None, "hu")
    savemat(tmp_path / "a.mat", matlab_names(ct_hu, mask[1:]))
    with pytest.raises(ValueError, match=r"a\.mat: CT of shape .* expected equal shapes"):
        read_lab_nodule(row, 6, None, "hu")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (100000, 100000, 10000), }",  # 182 TiB
        "{'descr': '|V2147483647', 'fortran_order': False, 'shape': (4, 6, 7), }",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (4, 6, ",
        "(" * 9000 + ")" * 9000,
    ],
)
def test_an_array_that_only_declares_its_size_is_refused_in_one_line(tmp_path, header):
    content = b"\x93NUMPY\x02\0" + len(header).to_bytes(4, "little") + header.encode() + b"voxels"
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy: cannot be read as a plain NumPy array") as raised:
        read_npy(tmp_path / "a.npy")
    assert "\n" not in str(raised.value)


def test_a_table_that_cannot_be_used_says_why(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_lab_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="lacks the columns patient_id"):
        read_lab_table(write_table(tmp_path, patient_id=None))
    with pytest.raises(ValueError, match="spacing_z_mm hold text"):
        read_lab_table(write_table(tmp_path, spacing_z_mm=["thick"]))
    with pytest.raises(ValueError, match="line 2 has no patient_id"):
        read_lab_table(write_table(tmp_path, patient_id=[None]))
    for spacing in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match=r"line 2 has the spacing .* expected three positive numbers"):
            read_lab_table(write_table(tmp_path, spacing_y_mm=[spacing]))
    with pytest.raises(ValueError, match=r"nodules a come twice"):
        read_lab_table(
            write_table(
                tmp_path,
                nodule=["a", "a"],
                patient_id=["p", "q"],
                ct=["a", "b"],
                spacing_z_mm=1,
                spacing_y_mm=1,
                spacing_x_mm=1,
            )
        )
