import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from alignment import aligned
from safetensors.torch import load_file, save_file

from evaluation.networks.nodule_net import FEATURES, WEIGHTS, NoduleNet, load_nodule_net, nodule_features


@pytest.fixture(scope="module")
def network():
    return load_nodule_net()


def test_the_shipped_weights_are_small_and_have_the_stated_hash(network):
    assert WEIGHTS.stat().st_size < 1_000_000
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    assert aligned(network)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in load_file(WEIGHTS).items())


def test_changed_or_foreign_weights_are_refused(tmp_path):
    changed = tmp_path / "changed.safetensors"
    shutil.copyfile(WEIGHTS, changed)
    with changed.open("r+b") as handle:
        handle.seek(-1, 2)
        handle.write(b"\x01")
    with pytest.raises(ValueError, match=r"SHA-256 .* expected"):
        load_nodule_net(changed)
    save_file({"weight": torch.zeros(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="not weights of the nodule network"):
        load_nodule_net(tmp_path / "foreign.safetensors", sha256=None)
    with pytest.raises(ValueError, match="missing"):
        load_nodule_net(tmp_path / "absent.safetensors")


def test_features_do_not_depend_on_the_background_or_the_batch(network, make_lesion):
    lesions = [make_lesion(n) for n in range(3)]
    features = nodule_features(network, lesions)
    assert features.shape == (3, FEATURES)
    elsewhere = np.zeros_like(lesions[1].lesion_mask)
    elsewhere[:2] = True
    changed = replace(lesions[1], ct_hu=np.where(elsewhere, 300, lesions[1].ct_hu).astype(np.float32))
    np.testing.assert_allclose(nodule_features(network, [changed], batch=1)[0], features[1], atol=1e-4)


def test_features_move_further_the_more_a_lesion_is_blurred(network, make_lesion, blur):
    lesions = [make_lesion(n) for n in range(6)]
    features = nodule_features(network, lesions)
    moved = [
        np.linalg.norm(nodule_features(network, [blur(lesion, sigma) for lesion in lesions]) - features, axis=1).mean()
        for sigma in (0.5, 1.0, 2.0)
    ]
    assert 0.1 < moved[0] < moved[1] < moved[2]


def test_a_lesion_of_one_voxel_still_has_features(make_lesion):
    lesion = make_lesion(1)
    mask = np.zeros_like(lesion.lesion_mask)
    mask[12, 13, 15] = True
    torch.manual_seed(0)
    assert np.isfinite(nodule_features(NoduleNet(targets=2).eval(), [replace(lesion, lesion_mask=mask)])).all()
