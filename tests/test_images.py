"""Image files: every depth scaled by its range, every photograph turned as its labels are."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("PIL")

from layouts import photo, write_coco, write_voc, xml
from PIL import Image, ImageOps

from ssd_cuda.data import CocoDataset, DataError, VocDataset, images, read_image
from ssd_cuda.data.images import read_size

ORIENTATION = 274


@pytest.fixture(autouse=True)
def _warn_anew(monkeypatch):
    monkeypatch.setattr(images, "_warned_of_dim", False)


def turned(path, orientation, size=(40, 60)):
    """A photograph whose stored pixels are of ``size``."""
    pixels = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"tiffinfo": {ORIENTATION: orientation}} if path.suffix == ".tif" else {"exif": exif}
    image.save(path, **options)
    with Image.open(path) as again:
        upright = np.array(ImageOps.exif_transpose(again).convert("RGB"))
    return pixels, upright


def as_array(image):
    return image.permute(1, 2, 0).numpy()


# Depths


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_are_scaled_by_their_range(tmp_path, suffix):
    path = tmp_path / f"deep.{suffix}"
    values = np.array([[0, 128, 129, 4095], [32768, 65278, 65279, 65535]], np.uint16)
    Image.fromarray(values).save(path)
    expected = np.rint(values / 257.0)
    assert np.array_equal(as_array(read_image(path)), np.repeat(expected[..., None], 3, 2))


def test_16_bits_of_which_12_are_used_are_not_white_and_told_once(tmp_path):
    path = tmp_path / "twelve.png"
    Image.fromarray(np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)).save(path)
    with pytest.warns(UserWarning, match=r"twelve\.png uses 0 to 4095 of the 65536 levels"):
        image = read_image(path)
    assert image.max() == 16 and len(image.unique()) == 17
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path)


def test_32_bit_integers_must_fit_16(tmp_path):
    for high, fits in ((65535, True), (65536, False)):
        path = tmp_path / f"{high}.tif"
        Image.fromarray(np.array([[0, high]], np.int32)).save(path)
        if fits:
            assert read_image(path)[0].tolist() == [[0, 255]]
        else:
            with pytest.raises(DataError, match="must hold numbers of 8 or 16 bits, got 0 to 65536"):
                read_image(path)


def test_floats_are_scaled_from_0_to_1(tmp_path):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.0, 0.25, 0.5, 1.0]], np.float32)).save(path)
    assert as_array(read_image(path))[0, :, 1].tolist() == [0, 64, 128, 255]


@pytest.mark.parametrize("bad", [-0.1, 1.1, 255.0, np.nan, np.inf])
def test_floats_without_a_known_range_are_refused(tmp_path, bad):
    path = tmp_path / "float.tif"
    Image.fromarray(np.array([[0.5, bad]], np.float32)).save(path)
    with pytest.raises(DataError, match=r"float\.tif must hold floats in \[0, 1\], got"):
        read_image(path)


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_the_label_file_decides_how_a_photograph_is_turned(tmp_path, orientation, suffix):
    path = tmp_path / f"photo.{suffix}"
    stored, upright = turned(path, orientation)
    assert read_size(path) == upright.shape[:2]
    for size in (None, (0, 0), upright.shape[:2], (7, 7)):
        assert np.array_equal(as_array(read_image(path, size)), upright)
    # Only a quarter turn has another size: then the boxes were drawn on the stored pixels.
    expected = stored if orientation in (5, 6, 7, 8) else upright
    assert np.array_equal(as_array(read_image(path, stored.shape[:2])), expected)


@pytest.mark.parametrize(("size", "kept"), [((60, 40), False), ((40, 60), True), ((0, 0), False)])
def test_voc_images_and_targets_agree_on_the_turn(tmp_path, size, kept):
    root = write_voc(tmp_path)
    stored, upright = turned(root / "JPEGImages/a.png", 6)
    (root / "JPEGImages/a.jpg").unlink()
    (root / "Annotations/a.xml").write_text(xml(("dog", (1, 2, 31, 22), False), size=size))
    image, target = VocDataset(root, "train")[0]
    assert np.array_equal(as_array(image), stored if kept else upright)
    assert target["size"] == tuple(image.shape[1:]) == target["boxes"].canvas_size


def test_coco_without_a_size_is_upright(tmp_path):
    root = write_coco(tmp_path)
    turned(root / "train2017/y.jpg", 8)
    image, target = CocoDataset(root / "annotations/instances_train2017.json", root / "train2017")[1]
    assert target["size"] == tuple(image.shape[1:]) == (60, 40)


def test_a_size_of_neither_is_found(tmp_path):
    root = write_voc(tmp_path)
    turned(root / "JPEGImages/a.png", 6)
    (root / "JPEGImages/a.jpg").unlink()
    (root / "Annotations/a.xml").write_text(xml(("dog", (1, 2, 3, 4), False), size=(61, 40)))
    with pytest.raises(DataError, match=r"got 40x61 while .*a\.png is 40x60"):
        VocDataset(root, "train")[0]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_block_says_nothing(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.new("RGB", (60, 40), "red").save(path, exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff")
    assert read_image(path).shape == (3, 40, 60) and read_size(path) == (40, 60)


# What is no image


def test_nothing_but_a_file_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, found in (("pipe.jpg", "a pipe"), ("folder.jpg", "a folder")):
        with pytest.raises(DataError, match=rf"image .*{name} must be a file, got {found}"):
            read_image(tmp_path / name)
    with pytest.raises(DataError, match="image /dev/zero must be a file, got a device"):
        read_image("/dev/zero")
    with pytest.raises(DataError, match=r"cannot be read: .*embedded null"):
        read_image("a\0b.jpg")


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "two.gif")[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("seed", range(20))
def test_damaged_images_are_read_or_refused(tmp_path, seed):
    """Whatever pillow's readers raise becomes the one error."""
    random = np.random.default_rng(seed)
    suffix = ("png", "jpg", "tif", "gif", "bmp")[seed % 5]
    path = tmp_path / f"damaged.{suffix}"
    photo(path)
    content = bytearray(path.read_bytes())
    for place in random.integers(0, min(len(content), 400), 12):
        content[place] = random.integers(256)
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert read_image(path).dtype == torch.uint8
        except DataError as error:
            assert "\n" not in str(error) and "damaged" in str(error)
