import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from evaluation.lesions.features import measure_features, merge
from evaluation.lesions.lesion_sets import load_lesions
from evaluation.lesions.set_comparison import distance_rows, set_metrics
from evaluation.networks.nodule_net import load_nodule_net

pytest.importorskip("radiomics", reason="pyradiomics does not build on this Python")

DATA = os.environ.get("LESION_DIFFUSION_DATA")
SEES_TEXTURE = ("Gabor WD", "GLCM WD", "GLRLM WD", "Fréchet 3D", "HU deviation WD", "Seam WD")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="LESION_DIFFUSION_DATA is not set")
def test_blurred_real_lesions_are_farther_than_real_ones_the_more_the_farther():
    folder = Path(DATA or "") / "nodules_iso51"
    small = [lesion for lesion in load_lesions(folder, "test")[0] if lesion.lesion_mask.sum() < 1500]
    train = [lesion for lesion in load_lesions(folder, "train")[0] if lesion.lesion_mask.sum() < 1500][:30]

    def measure(lesions, sigma=0.0):
        changed = [
            replace(one, ct_hu=np.where(one.lesion_mask, gaussian_filter(one.ct_hu, sigma), one.ct_hu))
            if sigma
            else one
            for one in lesions
        ]
        return measure_features(changed, f"blur {sigma}", nodule_net=load_nodule_net())[0]

    real = measure(small)
    pool = merge(real, measure(train))
    metrics = [metric for metric in set_metrics(pool) if metric.name.startswith(SEES_TEXTURE)]
    assert len(metrics) >= 6
    weak, strong = (distance_rows("b", real, measure(small, s), metrics, 30, 99, 0)[0] for s in (1.0, 2.0))
    for one, two in zip(weak, strong, strict=True):
        assert one.value < two.value, one.metric
        assert two.p_differs == 0.01, two.metric
        if two.metric != "GLRLM WD":  # ruled by run lengths in voxels, that is by size
            assert two.low > 1 and two.p_farther <= 0.02, two.metric
