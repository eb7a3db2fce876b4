"""Lesions in real pipelines of MONAI and TorchIO, with workers."""

import sys

import numpy as np
import pytest
import torch
from small_pool import chest, small_pool

from diffusion.transforms import LesionPool

SHAPE, SPACING_MM = (72, 64, 48), (1.0, 1.0, 1.5)
AFFINE = np.array([[-1.0, 0, 0, 12], [0, -1, 0, 34], [0, 0, 1.5, -56], [0, 0, 0, 1]])


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> LesionPool:
    return small_pool(tmp_path_factory.mktemp("pools") / "small")


def items(monai_data, count=4):
    made = []
    for seed in range(count):
        image = monai_data.MetaTensor(torch.from_numpy(chest(seed=seed)[0])[None], affine=torch.from_numpy(AFFINE))
        label = monai_data.MetaTensor(torch.zeros(1, *SHAPE, dtype=torch.uint8), affine=torch.from_numpy(AFFINE))
        made.append({"image": image, "label": label})
    return made


def test_a_monai_pipeline_with_workers_gives_lesions_a_label_and_the_affine(pool):
    monai_data = pytest.importorskip("monai.data")
    from monai.transforms import Compose, RandFlipd, RandSpatialCropd, ScaleIntensityRanged

    from diffusion.transforms import RandInsertNoduled

    def loaded(workers):
        keys = ("image", "label")
        pipeline = Compose(
            [
                RandSpatialCropd(keys, (64, 64, 40), random_size=False),
                RandInsertNoduled(keys, prob=1.0, pool=pool, lesions=(1, 2)),
                RandFlipd(keys, 0.5, 0),
                ScaleIntensityRanged("image", -1000, 400, 0, 1, clip=True),
            ]
        ).set_random_state(7)
        torch.manual_seed(7)  # the workers' seeds
        loader = monai_data.DataLoader(
            monai_data.Dataset(items(monai_data), pipeline), batch_size=2, num_workers=workers
        )
        return [(batch["image"], batch["label"]) for batch in loader]

    first, again = loaded(2), loaded(2)
    for (image, label), (same, _) in zip(first, again, strict=True):
        assert torch.equal(image.as_tensor(), same.as_tensor())
        assert image.shape == (2, 1, 64, 64, 40) and image.affine.shape[-2:] == (4, 4)
        for one, inside in zip(image, label, strict=True):
            assert int(inside.sum()) > 100 and float(one[inside > 0].median()) > 0.6
    assert len(loaded(0)) == 2


def test_the_state_decides_what_monai_does_and_the_given_item_stays(pool):
    monai_data = pytest.importorskip("monai.data")
    from diffusion.transforms import RandInsertNoduled

    (item,) = items(monai_data, 1)
    before = item["image"].clone()
    transform = RandInsertNoduled(prob=0.5, pool=pool, labels="instance").set_random_state(3)
    results = [transform(item) for _ in range(12)]
    changed = [not torch.equal(result["image"], before) for result in results]
    assert 2 < sum(changed) < 10 and torch.equal(item["image"], before) and int(item["label"].max()) == 0
    again = RandInsertNoduled(prob=0.5, pool=pool, labels="instance").set_random_state(3)
    assert all(torch.equal(again(item)["image"], result["image"]) for result in results)
    assert torch.equal(results[changed.index(True)]["image"].affine, before.affine)


def test_what_monai_gives_it_that_is_no_volume_in_hu_is_refused_in_a_sentence(pool):
    pytest.importorskip("monai.data")
    from diffusion.transforms import RandInsertNoduled

    transform = RandInsertNoduled(prob=1.0, pool=pool)
    image, label = np.zeros((1, 20, 20, 20), np.float32), np.zeros((1, 20, 20, 20), np.uint8)
    with pytest.raises(ValueError, match="'image' is a ndarray without an affine; pass spacing_mm"):
        transform({"image": image, "label": label})
    with pytest.raises(ValueError, match="'image' is a str, expected an image; put LoadImaged before"):
        transform({"image": "a.nii.gz", "label": label})
    with pytest.raises(ValueError, match=r"'image' has the shape \(20, 20, 20\), expected \(1, X, Y, Z\)"):
        transform({"image": image[0], "label": label})
    with pytest.raises(KeyError, match="'label' is not in the item"):
        transform({"image": image})
    with pytest.raises(ValueError, match=r"lesions \(3, 1\)"):
        RandInsertNoduled(pool=pool, lesions=(3, 1))
    with pytest.raises(ValueError, match=r"diameter_mm \(9.0, 4.0\)"):
        RandInsertNoduled(pool=5, diameter_mm=(9, 4))
    with pytest.raises(ValueError, match="no pool of lesions"):
        RandInsertNoduled(pool="/nowhere")


def test_a_torchio_pipeline_with_workers_gives_lesions_and_a_history_that_gives_them_again(pool):
    tio = pytest.importorskip("torchio")
    from diffusion.transforms import RandomInsertNodule

    def subject(seed):
        image = torch.from_numpy(chest(seed=seed)[0])[None]
        return tio.Subject(
            ct=tio.ScalarImage(tensor=image, affine=AFFINE),
            nodules=tio.LabelMap(tensor=torch.zeros(1, *SHAPE, dtype=torch.uint8), affine=AFFINE),
        )

    pipeline = tio.Compose([RandomInsertNodule(p=1.0, pool=pool), tio.RandomFlip(axes=(0,)), tio.Clamp(-1000, 400)])
    torch.manual_seed(1)
    made = pipeline(subject(0))
    inside = made["nodules"].data > 0
    assert int(inside.sum()) > 100 and float(made["ct"].data[inside].median()) > -400
    assert np.allclose(made["ct"].affine, AFFINE)
    replayed = made.get_composed_history()(subject(0))
    assert torch.equal(replayed["ct"].data, made["ct"].data)
    torch.manual_seed(1)
    assert torch.equal(pipeline(subject(0))["ct"].data, made["ct"].data)

    dataset = tio.SubjectsDataset([subject(0), subject(1)], transform=pipeline)
    loader = tio.SubjectsLoader(dataset, batch_size=2, num_workers=1)
    (batch,) = loader
    assert (batch["nodules"]["data"].flatten(1).sum(1) > 100).all()


@pytest.mark.parametrize(("package", "name"), [("monai", "RandInsertNoduled"), ("torchio", "RandomInsertNodule")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, name, monkeypatch):
    module = {"monai": "for_monai", "torchio": "for_torchio"}[package]
    for found in [one for one in sys.modules if one.split(".")[0] == package or one.endswith(module)]:
        monkeypatch.delitem(sys.modules, found)
    monkeypatch.setitem(sys.modules, package, None)
    import diffusion.transforms

    with pytest.raises(ImportError, match=f"{name} needs .*: pip install '{package}>="):
        getattr(diffusion.transforms, name)
