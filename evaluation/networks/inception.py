"""Inception-v3 features of a lesion's three central slices, for the FID, and LPIPS of paired lesions.

Both need ImageNet weights that are not shipped here: give a local file, or let torch's hub fetch them once.
"""

import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models.inception import InceptionA, InceptionC, InceptionE

from evaluation.lesions.lesion_sets import Lesion, centre_slices, lesion_cube

FID_WEIGHTS_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)
ALEXNET_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
FID_CLASSES, TORCHVISION_CLASSES = 1008, 1000
INPUT_SIDE = 299
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LPIPS_SIDE = 128  # the 32 mm square enlarged, so that AlexNet's last feature map has 7 x 7 cells


def load_inception(weights: str) -> nn.Module:
    """Inception-v3 that returns its 2048 pooled features.

    Args:
        weights: "fid" (the 2015 network every published FID uses, fetched by torch's hub), "torchvision" (fetched), or
            a local state dict of either (.pth or .safetensors); which of the two is told by its number of classes.
    Returns: A module: (B, 1, S, S) in [-1, 1] -> (B, 2048). It repeats the channel and resizes to 299 bilinearly.
    Raises: ValueError: If the weights cannot be fetched or read, or are not Inception-v3's.
    """
    if weights == "torchvision":
        state = _fetch(torchvision.models.Inception_V3_Weights.IMAGENET1K_V1.url, "inception")
    else:
        state = _fetch(FID_WEIGHTS_URL, "inception") if weights == "fid" else _read_state(Path(weights))
    classes = len(state["fc.bias"]) if "fc.bias" in state else 0
    if classes not in (FID_CLASSES, TORCHVISION_CLASSES):
        raise ValueError(f"{weights}: {classes} classes, expected a state dict of Inception-v3 with 1008 (FID) or 1000")
    network = torchvision.models.inception_v3(
        weights=None, num_classes=classes, aux_logits=False, transform_input=False, init_weights=False
    )
    if classes == FID_CLASSES:
        _pool_as_fid(network)
    kept = {name: value for name, value in state.items() if not name.startswith("AuxLogits.")}
    try:
        network.load_state_dict(kept)
    except RuntimeError as error:
        raise ValueError(f"{weights}: does not fit Inception-v3 ({str(error).splitlines()[0]})") from error
    network.fc = nn.Identity()
    return InceptionFeatures(network, fid=classes == FID_CLASSES).eval().requires_grad_(False)


class InceptionFeatures(nn.Module):
    """Grey slices in [-1, 1] to pooled features; the FID network takes [-1, 1], torchvision's ImageNet statistics."""

    def __init__(self, network: nn.Module, fid: bool) -> None:
        super().__init__()
        self.network = network
        self.fid = fid

    def forward(self, slices: Tensor) -> Tensor:
        image = F.interpolate(slices, (INPUT_SIDE, INPUT_SIDE), mode="bilinear", align_corners=False)
        image = image.expand(-1, 3, -1, -1)
        if not self.fid:
            mean = image.new_tensor(IMAGENET_MEAN).view(1, 3, 1, 1)
            std = image.new_tensor(IMAGENET_STD).view(1, 3, 1, 1)
            image = ((image + 1) / 2 - mean) / std
        return self.network(image)


def inception_features(
    network: nn.Module, lesions: list[Lesion], device: str | torch.device = "cpu", batch: int = 8
) -> np.ndarray:
    """Features of the axial, coronal and sagittal centre slice of each lesion, foreground only.

    The slice is 32 x 32 mm around the lesion's centroid, windowed to [-1, 1] (-1150 ... 350 HU); voxels outside the
    mask are -1, because the texture-loss proposal measures the foreground only.

    Returns: (N, 3, 2048) float32, as the network computes: of 50,000 lesions they take 1.2 GB.
    """
    network = network.to(device)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(lesions), batch):
            slices = [centre_slices(lesion_cube(lesion, rim=0)[0]) for lesion in lesions[start : start + batch]]
            flat = torch.from_numpy(np.concatenate(slices)).unsqueeze(1)
            rows.append(network(flat.to(device)).cpu().numpy())
    return np.concatenate(rows).reshape(len(lesions), 3, -1)


def load_lpips(backbone: str) -> nn.Module:
    """LPIPS (AlexNet, version 0.1) of the `lpips` package, which ships its linear heads but not AlexNet.

    Args:
        backbone: "torchvision" (fetched by torch's hub) or a local torchvision AlexNet state dict.
    Raises: ValueError: If the weights cannot be fetched or read, or are not AlexNet's.
    """
    import lpips

    state = _fetch(ALEXNET_URL, "lpips_backbone") if backbone == "torchvision" else _read_state(Path(backbone))
    network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
    layers: dict[str, nn.Module] = {}  # lpips cuts torchvision's `features` into slices but keeps each layer's number
    for name, module in network.net.named_modules():
        if isinstance(module, nn.Conv2d):
            layers[name.rsplit(".", 1)[1]] = module
    try:
        for number, module in layers.items():
            module.load_state_dict({key: state[f"features.{number}.{key}"] for key in ("weight", "bias")})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{backbone}: not a state dict of torchvision's AlexNet ({error})") from error
    return network.eval().requires_grad_(False)


def lpips_distances(
    network: nn.Module, pairs: list[tuple[Lesion, Lesion]], device: str | torch.device = "cpu"
) -> np.ndarray:
    """Mean LPIPS over the three centre slices of each pair, 32 x 32 mm with their context, enlarged to 128 pixels.

    Returns: (N,) float64; 0 for equal images.
    """
    network = network.to(device)
    values = []
    for pair in pairs:
        first, second = (torch.from_numpy(centre_slices(lesion_cube(lesion)[0])).unsqueeze(1) for lesion in pair)
        images = F.interpolate(torch.cat([first, second]), (LPIPS_SIDE, LPIPS_SIDE), mode="bilinear").to(device)
        images = images.expand(-1, 3, -1, -1)
        with torch.inference_mode():
            values.append(network(images[:3], images[3:]).double().mean().item())
    return np.array(values)


def _fetch(url: str, option: str) -> dict[str, Tensor]:
    try:
        return torch.hub.load_state_dict_from_url(url, map_location="cpu", check_hash=True, weights_only=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{url} could not be fetched ({error}); download it elsewhere and pass its path as --{option}"
        ) from error


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path}: no such weights file; give a .pth or .safetensors state dict")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors raise many kinds for a broken file
        raise ValueError(f"{path}: cannot be read as a state dict ({error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds a {type(state).__name__}, expected a state dict")
    return state


def _pool_as_fid(network: nn.Module) -> None:
    """Pool as the 2015 TensorFlow network did: averages do not count padding, and the last block takes the maximum.

    torchvision's blocks hand a padded average to `branch_pool`; a hook hands it the right pooling instead.
    """
    for name, block in network.named_children():
        if isinstance(block, (InceptionA, InceptionC, InceptionE)):
            _replace_pooling(block, maximum=name == "Mixed_7c")


def _replace_pooling(block: nn.Module, maximum: bool) -> None:
    inputs: list[Tensor] = []

    def pooled(module: nn.Module, args: tuple[Tensor]) -> Tensor:
        x = inputs.pop()
        return F.max_pool2d(x, 3, 1, 1) if maximum else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    block.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    block.get_submodule("branch_pool").register_forward_pre_hook(pooled)
