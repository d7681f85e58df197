"""From a path to batches: layouts, augmentation, the cache, the loader."""

from __future__ import annotations

import pickle
import sys
import time

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import xml

from ssd_cuda.data import (
    BatchLoader,
    CachedDataset,
    CocoDataset,
    DataError,
    PairsDataset,
    ShapesDataset,
    TransformedDataset,
    VocDataset,
    collate,
    data_splits,
    make_transform,
    open_dataset,
    prepare,
    read_image,
)
from ssd_cuda.data.transforms import PRESETS

# Recognition


def test_layouts_are_recognised(voc, coco):
    assert isinstance(open_dataset("shapes", "test", length=2), ShapesDataset)
    assert isinstance(open_dataset(voc, "train"), VocDataset)
    assert isinstance(open_dataset(str(coco), "val2017"), CocoDataset)
    assert data_splits("shapes") == ("train", "test")
    assert data_splits(voc) == ("train", "val")
    assert data_splits(coco) == ("train2017", "val2017")
    (voc / "ImageSets/Main/trainval.txt").write_text("a\nb\nc\n")
    (voc / "ImageSets/Main/test.txt").write_text("c\n")
    assert data_splits(voc) == ("trainval", "test")


def test_coco_images_may_lie_in_three_places(coco):
    (coco / "images").mkdir()
    (coco / "train2017").rename(coco / "images/train2017")
    assert len(open_dataset(coco, "train2017")[0]) == 2
    (coco / "images/train2017/x.jpg").rename(coco / "images/x.jpg")
    (coco / "images/train2017/y.jpg").unlink()
    (coco / "images/train2017").rmdir()
    assert open_dataset(coco, "train2017")[0][0].shape == (3, 40, 60)


def test_an_unknown_layout_says_what_was_expected(tmp_path, voc, coco):
    (tmp_path / "other/pictures").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    expected = r"must be the word 'shapes', a Pascal VOC folder .* or a COCO folder .*, got "
    for path, found in [
        ("other", "a folder with pictures"),
        ("empty", "an empty folder"),
        ("gone", "a path that does not exist"),
    ]:
        for function in (lambda p: open_dataset(p, "train"), data_splits):
            with pytest.raises(DataError, match=f"{path} {expected}{found}"):
                function(tmp_path / path)
    with pytest.raises(
        DataError, match=r"'test' needs .*instances_test\.json.*files there: instances_train2017"
    ):
        open_dataset(coco, "test")
    with pytest.raises(DataError, match=r"must be 'train' or 'test', got 'val'"):
        open_dataset("shapes", "val")
    (voc / "ImageSets/Main/val.txt").unlink()
    with pytest.raises(DataError, match=r"must hold a split to train on and one to test on .*, got train"):
        data_splits(voc)


# Augmentation and batches


@pytest.mark.parametrize(("preset", "expected"), [("flip", {(), (2,)}), ("flips", {(), (2,), (1,), (1, 2)})])
def test_flips_move_the_boxes_with_the_image(voc, preset, expected):
    image, target = VocDataset(voc, "train")[0]
    plain = make_transform("none", (80, 120))(image, target)[0]
    transform = make_transform(preset, (80, 120))
    seen = set()
    for _ in range(40):
        out, changed = transform(image, target)
        x1, y1, x2, y2 = changed["boxes"][0].tolist()  # unflipped: 2, 4, 62, 44
        assert x2 - x1 == 60 and y2 - y1 == 40
        flipped = (1,) * (y1 == 36) + (2,) * (x1 == 58)  # dimensions of the image
        assert torch.equal(out, plain.flip(flipped))
        assert changed["size"] == (40, 60) and changed["labels"].tolist() == [2, 1]
        seen.add(flipped)
    assert seen == expected
    assert target["boxes"].tolist()[0] == [1, 2, 31, 22]  # the original is left alone


def test_none_only_resizes_and_cuts(voc):
    (voc / "Annotations/c.xml").write_text(
        xml(("emu", (-10, 5, 30, 50), True), ("emu", (70, 5, 90, 20), False))
    )
    image, target = make_transform("none", (20, 30))(*VocDataset(voc, "val")[0])
    assert image.shape == (3, 20, 30)
    assert target["boxes"].tolist() == [[0, 2.5, 15, 20]]  # the second lies outside
    assert target["difficult"].tolist() == [True] and len(target["area"]) == 1


def test_ssd_keeps_boxes_and_labels_together():
    """Every box that is left still frames its own shape: one pure colour per class."""
    from torchvision import tv_tensors

    from ssd_cuda.data.dataset import make_target

    torch.manual_seed(3)
    image = torch.full((3, 96, 128), 10, dtype=torch.uint8)
    corners = [[8, 8, 40, 40], [60, 20, 100, 50], [20, 60, 60, 90], [90, 60, 120, 90], [64, 60, 80, 76]]
    for label, (x1, y1, x2, y2) in enumerate(corners, 1):
        image[:, y1:y2, x1:x2] = 40 * label
    target = make_target(torch.tensor(corners).float(), torch.arange(1, 6), (96, 128), 0)
    crop = make_transform("ssd", (96, 128))
    crop.transforms = [t for t in crop.transforms if "Photometric" not in type(t).__name__]
    counts = set()
    for _ in range(40):
        out, changed = crop(tv_tensors.Image(image), dict(target))
        counts.add(len(changed["labels"]))
        for box, label in zip(changed["boxes"], changed["labels"], strict=True):
            x1, y1, x2, y2 = box.round().int().tolist()
            if x2 - x1 > 6 and y2 - y1 > 6:
                inner = out[0, y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].float().median()
                assert abs(inner - 40 * int(label)) < 3
        lengths = {len(changed[key]) for key in ("boxes", "labels", "difficult", "crowd", "area")}
        assert lengths == {len(changed["labels"])}
    assert len(counts) > 2  # crops did remove objects


def test_augmentation_repeats_by_seed():
    dataset = prepare(ShapesDataset("train", length=2, size=(64, 64)), (64, 64), "ssd", cache=True)

    def sample():
        torch.manual_seed(5)
        return dataset[1]

    (a, target_a), (b, target_b) = sample(), sample()
    assert torch.equal(a, b) and torch.equal(target_a["boxes"], target_b["boxes"])


def test_caffe_resizes_by_a_rule_of_opencv_that_is_drawn():
    """Each image is exactly one of the five that OpenCV makes, each comes about as often; boxes follow."""
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV")
    (choice,) = [t for t in make_transform("caffe", (40, 60)).transforms if "Choice" in type(t).__name__]
    image, target = ShapesDataset("train", length=1, size=(90, 70))[0]
    pixels = image.permute(1, 2, 0).numpy()
    rules = (cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_NEAREST, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
    made = [torch.from_numpy(cv2.resize(pixels, (60, 40), interpolation=r)).permute(2, 0, 1) for r in rules]
    seen = torch.zeros(len(rules))
    torch.manual_seed(0)
    for _ in range(200):
        out, changed = choice(image, dict(target))
        assert type(out) is type(image) and type(changed["boxes"]) is type(target["boxes"])
        same = [torch.equal(out, each) for each in made]
        assert sum(same) == 1
        seen[same.index(True)] += 1
        scale = torch.tensor([60 / 70, 40 / 90] * 2)
        torch.testing.assert_close(changed["boxes"].as_subclass(torch.Tensor), target["boxes"] * scale)
        assert changed["boxes"].canvas_size == (40, 60) and torch.equal(changed["labels"], target["labels"])
    assert seen.min() > 20 and seen.max() < 65


def test_caffe_without_opencv_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ImportError, match="augmentation as caffe's needs opencv-python-headless"):
        make_transform("caffe", (40, 60))


def test_the_command_line_knows_every_preset():
    from argparse import ArgumentParser

    from ssd_cuda.cli import train_options

    parser = ArgumentParser()
    train_options.add_arguments(parser)
    (action,) = [a for a in parser._actions if "--augment" in a.option_strings]
    assert tuple(action.choices) == PRESETS


def test_presets_are_checked():
    with pytest.raises(ValueError, match=r"preset must be one of 'none', 'flip', .*'nvidia', got 'mosaic'"):
        make_transform("mosaic", (10, 10))
    for preset in ("ssd", "caffe", "ssdlite", "nvidia"):
        with pytest.raises(ValueError, match=f"size must be given for the preset '{preset}'"):
            make_transform(preset, None)


@pytest.mark.parametrize(
    ("preset", "parts"),
    [
        (
            "ssd",
            ["RandomZoomOut", "RandomIoUCrop", "Resize", "RandomPhotometricDistort", "RandomHorizontalFlip"],
        ),
        (
            "caffe",
            [
                "RandomZoomOut",
                "RandomIoUCrop",
                "RandomChoice",
                "RandomPhotometricDistort",
                "RandomHorizontalFlip",
            ],
        ),
        ("ssdlite", ["RandomIoUCrop", "Resize", "RandomHorizontalFlip"]),
        ("nvidia", ["RandomIoUCrop", "Resize", "ColorJitter", "RandomHorizontalFlip"]),
    ],
)
def test_the_augmentation_of_a_recipe_is_whole(preset, parts):
    """In order; and the numbers of the paper: enlarged up to 4 in half of the images, crops of .3 on."""
    if preset == "caffe":
        pytest.importorskip("cv2", reason="needs OpenCV")
    steps = {type(step).__name__: step for step in make_transform(preset, (40, 60)).transforms}
    assert list(steps)[: len(parts)] == parts
    crop = steps["RandomIoUCrop"]
    assert (crop.min_scale, crop.max_scale, crop.min_aspect_ratio, crop.max_aspect_ratio) == (0.3, 1, 0.5, 2)
    assert set(crop.options) >= {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    if preset in ("ssd", "caffe"):
        zoom, colour = steps["RandomZoomOut"], steps["RandomPhotometricDistort"]
        assert (zoom.p, tuple(zoom.side_range)) == (0.5, (1, 4))
        assert (tuple(colour.brightness), colour.p) == ((0.875, 1.125), 0.5)  # 32 of 255
        assert tuple(colour.contrast) == tuple(colour.saturation) == (0.5, 1.5)


def test_the_cache_holds_what_reading_gives(voc):
    dataset = VocDataset(voc, "train")
    cached = CachedDataset(dataset, (20, 30))
    plain = TransformedDataset(dataset, make_transform("none", (20, 30)))
    assert cached.images.shape == (2, 3, 20, 30) and cached.classes == dataset.classes
    (voc / "JPEGImages/a.jpg").rename(voc / "JPEGImages/gone.jpg")
    image, target = cached[0]  # the file is not read again
    (voc / "JPEGImages/gone.jpg").rename(voc / "JPEGImages/a.jpg")
    assert torch.equal(image, plain[0][0]) and torch.equal(target["boxes"], plain[0][1]["boxes"])
    before = image.clone()
    prepare(cached, (20, 30), "flip")[0][0].fill_(0)
    assert torch.equal(cached[0][0], before)


def test_prepare_caches_what_is_small(voc):
    dataset = VocDataset(voc, "train")
    small = prepare(dataset, (20, 30), "flip")
    large = prepare(dataset, (20, 30), "flip", cache_limit=2 * 3 * 20 * 30 - 1)
    assert isinstance(small.dataset, CachedDataset) and large.dataset.dataset is dataset
    assert prepare(dataset, (20, 30), "ssd").dataset.images.shape[2:] == (40, 60)
    assert small[0][0].shape == large[0][0].shape == (3, 20, 30)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_sample_does_not_depend_on_what_fits_in_memory(preset):
    """To the bit: of wide and high images, and of arrays whose memory goes by pixel, not by channel."""
    if preset == "caffe":
        pytest.importorskip("cv2", reason="needs OpenCV")
    pairs = []
    for index, size in enumerate([(64, 150), (170, 90), (64, 64)]):
        image, target = ShapesDataset("train", length=3, size=size)[index]
        boxes = target["boxes"].as_subclass(torch.Tensor) + 0.3 * index
        boxes = torch.cat([boxes, torch.tensor([[-4.0, 3, 20, 30]])])
        labels = torch.cat([target["labels"], torch.tensor([1])])
        pairs.append((image.permute(1, 2, 0).contiguous().numpy(), {"boxes": boxes, "labels": labels}))
    dataset = PairsDataset(pairs, ShapesDataset.classes)
    kept, read = (prepare(dataset, (50, 70), preset, cache=cache) for cache in (True, False))
    for index in 0, 1, 2:
        for seed in range(12):
            torch.manual_seed(seed)
            image, target = kept[index]
            torch.manual_seed(seed)
            other, twin = read[index]
            assert type(image) is type(other) and image.stride() == other.stride()
            assert torch.equal(image, other)
            assert target.keys() == twin.keys() and target["size"] == twin["size"]
            assert all(torch.equal(target[key], twin[key]) for key in ("boxes", "labels", "area"))


def test_a_bad_image_surfaces_while_caching(voc):
    (voc / "JPEGImages/b.png").write_text("nothing")
    with pytest.raises(DataError, match=r"b\.png cannot be read"):
        CachedDataset(VocDataset(voc, "train"), (20, 30))


class Slow(ShapesDataset):
    reads, bad = 0, None

    def __getitem__(self, index):
        self.reads += 1
        if index == self.bad:
            raise DataError(f"image {index} cannot be read")
        time.sleep(0.05)
        return super().__getitem__(index)


def interrupted(results, total):
    yield next(results)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("error", "progress"), [(DataError, None), (KeyboardInterrupt, interrupted)])
def test_after_a_bad_image_and_ctrl_c_in_the_bar_the_rest_is_not_read_first(error, progress):
    dataset = Slow("train", length=200, size=(64, 64))
    dataset.bad = None if progress else 0
    with pytest.raises(error):
        CachedDataset(dataset, (64, 64), progress=progress)
    assert dataset.reads < 100


def test_collate_gives_floats_and_normalised_ragged_targets(voc, coco):
    samples = [VocDataset(voc, "train")[0], VocDataset(voc, "train")[1], open_dataset(coco, "val2017")[0]]
    images, gt = collate(samples)
    assert images.shape == (3, 3, 40, 60) and images.dtype == torch.float32
    assert images.max() <= 1 and torch.equal((images[0] * 255).round().byte(), samples[0][0])
    assert gt.offsets.tolist() == [0, 2, 2, 3]  # no objects in the second, the crowd of the third left out
    scale = torch.tensor([60.0, 40, 60, 40])
    expected = torch.tensor([[1.0, 2, 31, 22], [10.5, 5, 20, 40], [1, 2, 31, 22]]) / scale
    assert torch.equal(gt.boxes, expected) and gt.labels.tolist() == [2, 1, 2]
    assert type(gt.boxes) is torch.Tensor and type(images) is torch.Tensor


def test_collate_refuses_images_of_different_sizes(voc):
    samples = [VocDataset(voc, "train")[0], ShapesDataset("train")[0]]
    with pytest.raises(ValueError, match=r"must have one shape, got \[\(3, 40, 60\), \(3, 240, 320\)\]"):
        collate(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_loader_shuffles_by_seed_and_epoch(workers):
    dataset = prepare(ShapesDataset("train", length=10, size=(64, 64)), (64, 64), "none")

    def epoch(number, **options):
        loader = BatchLoader(dataset, 4, train=True, workers=workers, **options)
        loader.set_epoch(number)
        return [images for images, _ in loader]

    first = epoch(0)
    assert [len(images) for images in first] == [4, 4]  # the last two are left out of training
    assert all(torch.equal(a, b) for a, b in zip(first, epoch(0), strict=True))
    assert not torch.equal(first[0], epoch(1)[0])
    assert not torch.equal(first[0], epoch(0, seed=1)[0])
    test = BatchLoader(dataset, 4, train=False, workers=workers)
    assert len(test) == 3
    images = torch.cat([images for images, _ in test])
    expected = torch.stack([dataset[i][0] for i in range(10)]).float() / 255
    assert torch.allclose(images, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="workers are kept between passes")
def test_a_resumed_run_sees_the_augmentation_of_an_unbroken_one():
    dataset = prepare(ShapesDataset("train", length=8, size=(64, 64)), (64, 64), "flip")
    unbroken, resumed = (BatchLoader(dataset, 4, train=True) for _ in range(2))
    for epoch in range(2):
        unbroken.set_epoch(epoch)
        before = torch.cat([images for images, _ in unbroken])
    torch.rand(5)  # what else draws random numbers does not matter
    resumed.set_epoch(1)
    assert torch.equal(torch.cat([images for images, _ in resumed]), before)


def test_fewer_images_than_a_batch_still_train():
    dataset = prepare(ShapesDataset("train", length=3, size=(64, 64)), (64, 64), "flip")
    assert [len(images) for images, _ in BatchLoader(dataset, 8, train=True, workers=0)] == [3]


def test_the_loader_delivers_to_the_device(device):
    dataset = prepare(ShapesDataset("train", length=2, size=(64, 64)), (64, 64))
    images, gt = next(iter(BatchLoader(dataset, 2, train=False, workers=0, device=device)))
    assert images.device.type == gt.boxes.device.type == gt.offsets.device.type == device.type


def test_datasets_travel_to_spawned_workers(voc, coco):
    for dataset in (
        VocDataset(voc, "train"),
        open_dataset(coco, "val2017"),
        prepare(ShapesDataset("train", length=2, size=(64, 64)), (64, 64), "ssd"),
    ):
        assert len(pickle.loads(pickle.dumps(dataset))) == 2


def test_a_missing_torchvision_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.transforms.v2", None)
    with pytest.raises(
        ImportError, match=r"augmentation needs torchvision .*: type `pip install torchvision`"
    ):
        make_transform("none", (10, 10))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r"reading images needs pillow .*: type `pip install pillow`"):
        read_image("x.png")
