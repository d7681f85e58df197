"""Which cards a build serves, and what a user is told where it serves none."""

from __future__ import annotations

import pytest
import torch

import ssd_cuda
from ssd_cuda import _cards, _extension, cli

SHIPPED = ["7.5", "8.0+PTX", "8.6", "9.0", "10.0", "12.0+PTX"]


@pytest.mark.parametrize(
    "archs, capability, binary, ptx",
    [
        (["8.0", "9.0"], (9, 0), True, False),
        (["8.0"], (8, 6), True, False),  # a binary runs on later minors of its major
        (["8.6"], (8, 0), False, False),
        (["8.0", "9.0"], (10, 0), False, False),
        (["9.0+PTX"], (12, 0), False, True),  # PTX runs on everything newer
        (["9.0+PTX"], (8, 0), False, False),
        ([], (9, 0), False, False),
        (["8.0", "8.6"], (8, 7), False, False),  # Orin: neither binary runs on Tegra
        (["8.0+PTX"], (8, 7), False, True),
        (["8.7"], (8, 7), True, False),
        (["8.7"], (8, 9), False, False),  # nor does Tegra's run elsewhere
        (["10.0"], (11, 0), False, False),
        (["11.0"], (11, 0), True, False),  # Thor
        (["9.0a"], (9, 0), True, False),
        (["9.0a+PTX"], (10, 0), False, False),  # "a" binds PTX too
        (["10.0a"], (10, 3), False, False),
        (["10.0f"], (10, 3), True, False),
        (["10.0f+PTX"], (12, 0), False, False),  # "f" ends with its major version
        (["ninety"], (9, 0), False, False),
        (SHIPPED, (7, 5), True, False),
        (SHIPPED, (8, 7), False, True),
        (SHIPPED, (8, 9), True, True),
        (SHIPPED, (12, 1), True, True),
        (SHIPPED, (7, 0), False, False),
    ],
)
def test_which_cards_a_build_serves(archs, capability, binary, ptx):
    assert _cards.service(archs, capability) == (binary, ptx)
    assert bool(_cards.service(archs, capability)) == (binary or ptx)


@pytest.mark.parametrize(
    "driver, cuda, card, told",
    [
        (12080, "13.0", None, True),
        (13000, "13.0", None, False),
        (13020, "12.6", None, False),
        (13000, "13.2", _cards.Service(True, True), False),  # a runtime runs with its own major version
        (13000, "13.2", _cards.Service(False, True), True),  # the driver has to understand the PTX
        (0, "13.0", None, False),
        (12080, None, None, False),
    ],
)
def test_an_old_driver_gets_one_sentence(monkeypatch, driver, cuda, card, told):
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: driver, raising=False)
    problem = _cards.driver_problem(cuda, card)
    assert (problem is not None) == told
    if told:
        assert problem.startswith(
            f"the driver of this machine is for CUDA {driver // 1000}.{driver % 100 // 10}"
        )
        assert "update the driver, or rebuild" in problem


@pytest.fixture
def card(monkeypatch):
    """A card of this build's own CUDA, as torch would show it; returns its facts to change."""
    facts = {"capability": (9, 0), "driver": 13000, "cuda": "13.0", "cuda_archs": "8.0;9.0a"}

    class Binary:
        @staticmethod
        def build_info():
            return {"cuda": facts["cuda"], "cuda_archs": facts["cuda_archs"]}

    def capability(index=0):
        if isinstance(facts["capability"], Exception):
            raise facts["capability"]
        return facts["capability"]

    monkeypatch.setattr(_extension, "_C", Binary)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=0: "Card")
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: facts["driver"], raising=False)
    _extension._cuda_problem.cache_clear()
    yield facts
    _extension._cuda_problem.cache_clear()


@pytest.mark.parametrize(
    "change, problem",
    [
        ({}, None),
        (
            {"cuda_archs": "8.0"},
            "kernels for 8.0, but the card is 9.0: rebuild with TORCH_CUDA_ARCH_LIST=9.0",
        ),
        ({"cuda": ""}, "rebuild with nvcc on PATH or FORCE_CUDA=1"),
        ({"driver": 12040}, "the driver of this machine is for CUDA 12.4, older than the CUDA 13.0"),
    ],
)
def test_info_and_the_first_op_say_the_same(card, capsys, change, problem):
    card.update(change)
    told = ssd_cuda.build_info()["gpus"][0]["problem"]
    assert told == _extension._cuda_problem(0)
    assert cli.main(["info"]) == 0
    out = capsys.readouterr().out
    if problem is None:
        assert told is None and "Card (9.0, served by this build)" in out
    else:
        assert problem in told and told in out


def test_info_never_raises(card, capsys):
    card["capability"] = RuntimeError("CUDA error: no kernel image\nmore lines")
    assert cli.main(["info"]) == 0
    assert "card 0 (?, torch cannot ask it: CUDA error: no kernel image)" in capsys.readouterr().out


def test_the_first_op_on_a_card_raises_that_sentence(card):
    card["driver"] = 12040
    on_card = torch.empty(1, 4, device="meta")

    class OnCard:
        device = torch.device("cuda", 0)

    with pytest.raises(RuntimeError, match=r"ssd_cuda\.nms: the driver of this machine is for CUDA 12\.4"):
        _extension.require("nms", OnCard())
    _extension.require("nms", on_card)
