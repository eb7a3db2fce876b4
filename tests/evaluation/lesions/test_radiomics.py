import numpy as np
import pytest
import SimpleITK as sitk

from evaluation.lesions import radiomics
from evaluation.lesions.radiomics import GLCM_COUNT, GLRLM_COUNT, radiomics_features

pyradiomics = pytest.importorskip("radiomics", reason="pyradiomics does not build on this Python")


def test_features_equal_pyradiomics_called_by_hand(make_lesion):
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    lesion = make_lesion(1)
    spacing_mm = (1.25, 0.7, 0.8)
    glcm, glrlm = radiomics_features(lesion.ct_hu, lesion.lesion_mask, spacing_mm)
    assert (len(glcm), len(glrlm)) == (GLCM_COUNT, GLRLM_COUNT)

    pyradiomics.setVerbosity(60)
    image = sitk.GetImageFromArray(np.clip(lesion.ct_hu, -1150, 350).astype(np.float64))
    mask = sitk.GetImageFromArray(lesion.lesion_mask.astype(np.uint8))
    for volume in (image, mask):
        volume.SetSpacing(spacing_mm[::-1])
    extractor = RadiomicsFeatureExtractor(binWidth=25)
    extractor.disableAllFeatures()
    for name in ("glcm", "glrlm"):
        extractor.enableFeatureClassByName(name)
    expected = extractor.execute(image, mask)
    for name, found in (("glcm", glcm), ("glrlm", glrlm)):
        for feature, value in found.items():
            assert value == pytest.approx(float(expected[f"original_{name}_{feature}"]), rel=1e-12)


def test_a_flat_lesion_has_the_features_of_one_grey_level(make_lesion):
    lesion = make_lesion(2)
    flat = np.full_like(lesion.ct_hu, -200)
    glcm, glrlm = radiomics_features(flat, lesion.lesion_mask, lesion.spacing_mm)
    assert np.isfinite([*glcm.values(), *glrlm.values()]).all()
    assert (glcm["Contrast"], glcm["DifferenceEntropy"], glcm["JointEntropy"]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert glcm["JointEnergy"] == glcm["MaximumProbability"] == glcm["Correlation"] == 1
    assert glrlm["GrayLevelNonUniformityNormalized"] == 1 and glrlm["GrayLevelVariance"] == 0


def test_a_mask_of_one_voxel_is_refused(make_lesion):
    lesion = make_lesion(3)
    one = np.zeros_like(lesion.lesion_mask)
    one[5, 5, 5] = True
    with pytest.raises(ValueError, match="1 voxels, expected at least 8"):
        radiomics_features(lesion.ct_hu, one, lesion.spacing_mm)


def test_missing_pyradiomics_is_said_in_one_sentence(make_lesion, monkeypatch):
    lesion = make_lesion(4)
    monkeypatch.setattr(radiomics.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pyradiomics is not installed"):
        radiomics_features(lesion.ct_hu, lesion.lesion_mask, lesion.spacing_mm)
