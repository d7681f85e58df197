"""Files that are no weights: one sentence each, which says what they are instead and what to do."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import nn

from ssd_cuda import cli, models
from ssd_cuda.engine.checkpoint import CheckpointError, load_model
from ssd_cuda.engine.finetune import read_pretrained

WEIGHTS = {"vgg.0.weight": torch.ones(64, 3, 3, 3)}


def saved(content, **options) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(*members: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for member in members:
            archive.writestr(member, "")
    return file.getvalue()


OLD = {"_use_new_zipfile_serialization": False}
SAFETENSORS = json.dumps({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}).encode()
SAFETENSORS = struct.pack("<Q", len(SAFETENSORS)) + SAFETENSORS
FILES = {
    "whole.pth": (saved(nn.Linear(2, 2)), r"a pickle with torch\.nn\.\S*Linear, .* save the state_dict\(\)"),
    "old.pth": (saved(nn.Linear(2, 2), **OLD), r"a pickle with torch\.nn\.\S*Linear, as of a whole model"),
    "path.pth": (saved({**WEIGHTS, "from": Path("x")}), r"a pickle with pathlib\S*, .* options beside it"),
    "lightning.ckpt": (
        saved({"state_dict": WEIGHTS, "pytorch-lightning_version": "2.5", "hyper_parameters": Namespace()}),
        r"a checkpoint of Lightning with argparse\.Namespace beside its weights: where it was written, save ",
    ),
    "plain.pkl": (pickle.dumps(Path("x"), 4), "what its reader refuses"),
    "cut.pth": (saved(WEIGHTS)[:900], "a file that ends too early: download or copy it again"),
    "cut_old.pth": (saved(WEIGHTS, **OLD)[:900], "a file that ends too early"),
    "cut.safetensors": (SAFETENSORS, "a file that ends too early"),
    "renamed.pth": (SAFETENSORS, r"a file of safetensors: give it the ending \.safetensors"),
    "renamed.safetensors": (saved(WEIGHTS), r"a file of torch\.save: give it the ending \.pth"),
    "none.pth": (b"", "an empty file"),
    "text.pth": (b"no weights\n", "a text: name the file of the weights"),
    "page.pth": (b"<!DOCTYPE html>\n<html>", "a web page: download the file that it leads to"),
    "page.caffemodel": (b"\n<html><body>", "a web page"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    "deploy.prototxt": (b'name: "x"\n', r"a prototxt of Caffe, .* give its \.caffemodel too"),
    "net.txt": (b"layer {\n}\n", "a prototxt of Caffe"),
    "keras.pth": (b"\x89HDF\r\n\x1a\n" + bytes(9), "an HDF5 file"),
    "array.pth": (b"\x93NUMPY\x01\x00", "an array of NumPy"),
    "packed.pth": (b"\x1f\x8b\x08\x00", "a gzip archive: unpack it"),
    "script.pth": (zipped("x/data.pkl", "x/constants.pkl"), "a TorchScript archive: save the"),
    "program.pt2": (zipped("x/archive_format", "x/data/weights"), "a program of torch.export"),
    "arrays.pth": (zipped("a.npy"), "an archive of NumPy"),
    "some.pth": (zipped("weights/model.bin"), "a zip archive: unpack it first"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch\xff", "an ONNX file"),
    "zeros.pth": (bytes(9000), "a file of zeros: download or copy it again"),
    "zeros.safetensors": (bytes(9000), "a file of zeros"),
    "zeros.caffemodel": (bytes(9000), "a file of zeros"),
    "cut.caffemodel": (b"\xa2\x06\x40abc", "a file that protobuf cannot read, as where it is cut off: down"),
    "holes.pth": (saved(WEIGHTS)[:64] + bytes(900) + saved(WEIGHTS)[964:], "a file that is damaged within"),
    "noise.pth": (b"\xff\xfe\x00\x01" * 9, "what its reader refuses"),
}


def prototxt() -> str:
    return pytest.importorskip("test_caffe_import", reason="needs protobuf").NET


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_weights_is_named_with_the_way_out(tmp_path, capsys, recwarn, name):
    content, sentence = FILES[name]
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors")
    if name.endswith(".caffemodel"):
        (tmp_path / name).with_suffix(".prototxt").write_text(prototxt())
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} must be .*, got {sentence}") as caught:
        models.load(tmp_path / name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250 + len(str(tmp_path))
    assert cli.main(["import", str(tmp_path / name), "-o", str(tmp_path / "model.pt")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (tmp_path / "model.pt").exists() and not recwarn.list


@pytest.mark.parametrize("name", FILES)
def test_a_checkpoint_that_is_none_is_named_in_the_same_words(tmp_path, recwarn, name):
    content, sentence = FILES[name]
    if Path(name).suffix in (".safetensors", ".caffemodel"):  # which may be whole
        sentence = "weights: `ssd-cuda import` makes a checkpoint of weights"
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} must be a checkpoint of ssd_cuda, got {sentence}"):
        load_model(tmp_path / name)
    assert not recwarn.list


def test_holes_in_the_numbers_of_a_file_are_told(tmp_path):
    """torch looks at no checksum: such weights load, and a network of them finds nothing."""
    state = models.ssd_small(num_classes=2, image_size=(64, 64)).state_dict()
    whole = saved(state)
    (tmp_path / "whole.pth").write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models.load(tmp_path / "whole.pth", image_size=(64, 64))
    name = max(state, key=lambda key: state[key].numel())
    at = whole.index(state[name].numpy().tobytes()[-400:])
    (tmp_path / "holes.pth").write_bytes(whole[:at] + bytes(400) + whole[at + 400 :])
    told = r"holes\.pth is not as it was written: the checksum of \S*/data/\d+ is another; download or copy"
    with pytest.warns(UserWarning, match=told):
        models.load(tmp_path / "holes.pth", image_size=(64, 64))


def test_layers_of_zeros_are_told(tmp_path):
    """Of a file that was given its length before its content, and whose beginning is there."""
    state = models.ssd_small(num_classes=2, image_size=(64, 64)).state_dict()
    last = [key for key, value in state.items() if value.dim() > 1][-1]
    told = rf"weights of .*ssd_small are all 0 in {last}: a download that was not finished\?"
    with pytest.warns(UserWarning, match=told):
        models.load({**state, last: torch.zeros_like(state[last])}, image_size=(64, 64))
    torch.save({**state, last: torch.zeros_like(state[last])}, tmp_path / "x.pth")
    with pytest.warns(UserWarning, match=rf"x\.pth are all 0 in {last}: a download"):
        read_pretrained(tmp_path / "x.pth")


def test_an_address_is_not_a_file(tmp_path, capsys):
    (tmp_path / "net.prototxt").write_text(prototxt())
    (tmp_path / "net.caffemodel").touch()
    url = "https://example.invalid/some/net"
    for line, named in (
        ([f"{url}.pth"], "weights file"),
        ([f"{url}.caffemodel", str(tmp_path / "net.prototxt")], "caffemodel"),
        ([str(tmp_path / "net.caffemodel"), f"{url}.prototxt"], "prototxt"),
        ([f"{url}.prototxt", str(tmp_path / "net.caffemodel")], "prototxt"),
    ):
        assert cli.main(["import", *line, "-o", str(tmp_path / "model.pt")]) == 1
        given = next(name for name in line if name.startswith(url))
        assert capsys.readouterr().err == (
            f"ssd-cuda: error: {named} must be a file on this machine, got {given}: download it first\n"
        )


def test_a_folder_and_a_pipe_are_no_files(tmp_path):
    (tmp_path / "net.caffemodel").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for path, sentence in (
        (tmp_path, "weights file must be a file, got the folder .*: name a file in it"),
        (tmp_path / "pipe", "weights file must be a file, got the pipe or device .*"),
        (tmp_path / "gone.pth", "weights file .*gone.pth does not exist"),
    ):
        with pytest.raises(ValueError, match=sentence):
            models.load(path)
        with pytest.raises(CheckpointError, match=sentence.replace("weights file", "checkpoint")):
            load_model(path)
    pytest.importorskip("google.protobuf")
    with pytest.raises(ValueError, match="prototxt must be a file, got the folder"):
        models.load(tmp_path / "net.caffemodel", prototxt=tmp_path)
