"""What a file that cannot be read as weights is instead, as far as its beginning tells, and the way out."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

__all__ = ["check_file", "damaged_part", "looks_like", "refused_pickle"]

_LIGHTNING = b"pytorch-lightning_version"  # a key of all its checkpoints
_CUT = "a file that ends too early: download or copy it again"
_DAMAGED = "a file that is damaged within: download or copy it again"
# how a file begins -> what it is, and what to do
_BEGINNINGS = (
    (rb"version https://git-lfs", "a pointer of Git LFS: type `git lfs pull` where it was cloned"),
    (rb"(?i)\s*<(!doctype|html)", "a web page: download the file that it leads to"),
    (rb"\x89HDF", "an HDF5 file, as Keras writes: give weights of PyTorch"),
    (rb"\x93NUMPY", "an array of NumPy: give weights of PyTorch"),
    (rb"\x1f\x8b", "a gzip archive: unpack it first"),
)
# a part of the name of some member of a zip archive -> the same
_MEMBERS = (
    ("constants.pkl", "a TorchScript archive: save the state_dict() of torch.jit.load(file) with torch.save"),
    ("archive_format", "a program of torch.export: give the weights that it was made from"),
    (".npy", "an archive of NumPy: give weights of PyTorch"),
)


def check_file(what: str, path: str | Path) -> None:
    """Raise ``ValueError`` unless ``path`` is a file, in a sentence that says what it is."""
    if Path(path).is_file():
        return
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):
        url = re.sub(":/+", "://", str(path), count=1)  # Path has made one slash of two
        raise ValueError(f"{what} must be a file on this machine, got {url}: download it first")
    if Path(path).is_dir():
        raise ValueError(f"{what} must be a file, got the folder {path}: name a file in it")
    if Path(path).exists():
        raise ValueError(f"{what} must be a file, got the pipe or device {path}: write it to a file first")
    raise ValueError(f"{what} {path} does not exist")


def looks_like(path: Path) -> str | None:
    """What a file that a reader has refused is by its content, and what to do about it; None: unknown."""
    with path.open("rb") as file:
        start = file.read(4096)
    if not start:
        return "an empty file: download or copy it again"
    if not any(start):  # what a download reserves before it writes
        return "a file of zeros: download or copy it again"
    for beginning, words in _BEGINNINGS:
        if re.match(beginning, start):
            return words
    if start.startswith(b"PK\x03\x04"):
        return _zip(path)
    if start[8:9] == b"{":
        right = path.suffix == ".safetensors"
        return _CUT if right else "a file of safetensors: give it the ending .safetensors"
    if _is_text(start):
        if path.suffix in (".prototxt", ".pbtxt") or re.search(rb"\blayers?\s*\{", start):
            return "a prototxt of Caffe, which holds no weights: give its .caffemodel too"
        return "a text: name the file of the weights"
    if path.suffix == ".onnx":
        return "an ONNX file: give the weights that it was exported from"
    return None


def _zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):  # its directory stands at its end
        return _CUT
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    for part, words in _MEMBERS:
        if any(part in member for member in members):
            return words
    if not any(member.endswith("data.pkl") for member in members):
        return "a zip archive: unpack it first"
    return "a file of torch.save: give it the ending .pth" if path.suffix == ".safetensors" else None


def refused_pickle(path: Path, error: Exception) -> str:
    """The same of a pickle, by torch's words, which name the first class that is no tensor or plain value."""
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named and _LIGHTNING in _pickle(path):
        return (
            f"a checkpoint of Lightning with {named[1]} beside its weights: where it was written, save "
            "torch.load(file, weights_only=False)['state_dict'] with torch.save"
        )
    if named:
        return (
            f"a pickle with {named[1]}, as of a whole model or of options beside it: where it was written, "
            "save the state_dict() alone with torch.save"
        )
    if isinstance(error, EOFError) or re.search("unexpected EOF|truncated", str(error)):
        return _CUT
    if "PytorchStreamReader" in str(error):  # of an archive whose directory is whole
        return _DAMAGED
    return f"what its reader refuses ({type(error).__name__}): save a state_dict() with torch.save"


def damaged_part(path: Path) -> str | None:
    """The first part of a file of torch.save that is not what its checksum says: torch does not look."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError):
        return None  # which torch reads and zipfile does not: encrypted, compressed otherwise


def _pickle(path: Path) -> bytes:
    """What a file of torch.save holds beside its numbers; nothing of one from before torch 1.6."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))


def _is_text(start: bytes) -> bool:
    """Whether these are letters in UTF-8, of which the last may be cut."""
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:
            return False
        text = start[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter.isspace() for letter in text.removeprefix("\ufeff"))
