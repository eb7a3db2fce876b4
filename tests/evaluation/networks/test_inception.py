import urllib.error

import lpips
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from alignment import aligned
from safetensors.torch import save_file

from evaluation.networks import inception
from evaluation.networks.inception import inception_features, load_inception, load_lpips, lpips_distances

pytestmark = pytest.mark.slow


def _random_inception(classes):
    torch.manual_seed(0)
    return torchvision.models.inception_v3(
        weights=None, num_classes=classes, aux_logits=False, transform_input=False, init_weights=False
    ).eval()


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    torch.save(_random_inception(1008).state_dict(), folder / "fid.pth")
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), folder / "alexnet.pth")
    return folder


@pytest.fixture(scope="module")
def fid_network(weights):
    return load_inception(str(weights / "fid.pth"))


def test_features_of_three_slices_come_from_local_weights(fid_network, make_lesion):
    features = inception_features(fid_network, [make_lesion(1)], batch=3)
    assert features.shape == (1, 3, 2048)
    assert np.isfinite(features).all() and np.ptp(features) > 0


def test_the_fid_network_pools_without_padding_and_by_maximum_in_the_last_block(fid_network):
    network = fid_network.network
    x = torch.rand(1, 288, 7, 6)
    average = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    expected = network.Mixed_5d.branch_pool.conv(average)
    expected = F.relu(network.Mixed_5d.branch_pool.bn(expected))
    torch.testing.assert_close(network.Mixed_5d(x)[:, -64:], expected)
    x = torch.rand(1, 2048, 5, 6)
    last = network.Mixed_7c.branch_pool
    expected = F.relu(last.bn(last.conv(F.max_pool2d(x, 3, 1, 1))))
    torch.testing.assert_close(network.Mixed_7c(x)[:, -192:], expected)


def test_torchvisions_network_is_left_as_it_is(tmp_path):
    plain = _random_inception(1000)
    torch.save(plain.state_dict(), tmp_path / "torchvision.pth")
    x = torch.rand(1, 1, 40, 40) * 2 - 1
    image = F.interpolate(x, (299, 299), mode="bilinear").expand(-1, 3, -1, -1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    plain.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = plain(((image + 1) / 2 - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(load_inception(str(tmp_path / "torchvision.pth"))(x), expected)


def test_lpips_equals_the_package_with_the_same_backbone_and_is_0_for_equal_images(weights, make_lesion):
    network = load_lpips(str(weights / "alexnet.pth"))
    reference = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    state = torch.load(weights / "alexnet.pth", weights_only=True)
    convolutions = [m for m in reference.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for number, module in zip((0, 3, 6, 8, 10), convolutions, strict=True):
        module.load_state_dict({k: state[f"features.{number}.{k}"] for k in ("weight", "bias")})
    a, b = torch.rand(2, 1, 3, 64, 64) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(network(a, b), reference(a, b))
    values = lpips_distances(network, [(make_lesion(1), make_lesion(1)), (make_lesion(1), make_lesion(2))])
    assert values[0] == 0 and values[1] > 0


def test_weights_of_a_safetensors_file_are_aligned_and_unchanged(weights, fid_network, tmp_path):
    lpips_network = load_lpips(str(weights / "alexnet.pth"))
    for load, name, same in ((load_inception, "fid", fid_network), (load_lpips, "alexnet", lpips_network)):
        save_file(torch.load(weights / f"{name}.pth", weights_only=True), tmp_path / f"{name}.safetensors")
        network = load(str(tmp_path / f"{name}.safetensors"))
        assert aligned(network)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))


def test_weights_that_cannot_be_fetched_or_read_are_named(monkeypatch, tmp_path, weights):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(inception.torch.hub, "load_state_dict_from_url", unreachable)
    with pytest.raises(ValueError, match=r"could not be fetched.*no network.*--inception"):
        load_inception("fid")
    with pytest.raises(ValueError, match=r"could not be fetched.*--lpips_backbone"):
        load_lpips("torchvision")
    with pytest.raises(ValueError, match="no such weights file"):
        load_inception(str(tmp_path / "absent.pth"))
    (tmp_path / "broken.pth").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cannot be read as a state dict"):
        load_inception(str(tmp_path / "broken.pth"))
    with pytest.raises(ValueError, match="0 classes, expected a state dict of Inception-v3"):
        load_inception(str(weights / "alexnet.pth"))
    with pytest.raises(ValueError, match="not a state dict of torchvision's AlexNet"):
        load_lpips(str(weights / "fid.pth"))
