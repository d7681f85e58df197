"""benchmarks/model.py: what a kernel should take on a card by its bytes and instructions, worked by hand."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks import kernel_counts, kernel_table, model

CARD = model.Card(multiprocessors=10, clock=1e9, memory=1e9 / model.COPY, warps=32)
# Four blocks of 8 warps fit a multiprocessor; a warp executes 100 instructions.
KEYS = {
    "family": "multibox",
    "case": "loss B=32 C=81",
    "kernel": "keys_kernel<float,float>",
    "blocks": 80,
    "block": 256,
    "resident": 4,
    "instructions": 80 * 8 * 100,
    "ptx": 50,
}


def test_two_whole_waves():
    found = model.time_of(KEYS, CARD)
    # 32 warps of a multiprocessor are 8 a scheduler: fewer than the 10 cycles that each waits.
    assert found.instructions == pytest.approx(2 * 100 * 10 / 1e9)
    assert found.bytes == pytest.approx(32 * 8732 * (2 * 81 * 4 + 8) / 1e9)
    assert found.total == found.start + max(found.instructions, found.bytes)


def test_a_wave_that_fills_the_schedulers_is_bound_by_issue():
    wide = dataclasses.replace(CARD, warps=64)
    count = {**KEYS, "resident": 8}
    assert model.time_of(count, wide).instructions == pytest.approx(1 * 100 * 16 / 1e9)


def test_a_rest_of_blocks_is_a_wave_of_its_own():
    count = {**KEYS, "blocks": 81, "instructions": 81 * 8 * 100}
    assert model.time_of(count, CARD).instructions == pytest.approx(3 * 100 * 10 / 1e9)


def test_blocks_and_bytes_follow_the_images_but_for_priors_shared_by_all():
    half = model.time_of(KEYS, CARD, images=16)
    assert half.instructions == pytest.approx(1 * 100 * 10 / 1e9)
    assert half.bytes == pytest.approx(model.time_of(KEYS, CARD).bytes / 2)
    groups = {**KEYS, "kernel": "group_kernel<float>"}
    assert model.time_of(groups, CARD, images=16).instructions == model.time_of(groups, CARD).instructions


def test_a_card_with_fewer_warps_holds_fewer_blocks():
    narrow = dataclasses.replace(CARD, warps=16)
    assert model.time_of(KEYS, narrow).instructions == pytest.approx(4 * 100 * 10 / 1e9)


def test_a_kernel_that_has_grown_takes_longer():
    growth = model.growths([KEYS], {"keys_kernel<float,float>": 75})
    assert growth == {"keys_kernel<float,float>": 1.5}
    assert model.time_of(KEYS, CARD, growth=1.5).instructions == pytest.approx(2 * 150 * 10 / 1e9)
    assert model.growths([KEYS], {}) == {"keys_kernel<float,float>": 1.0}


def test_every_kernel_that_was_counted_has_its_bytes_and_is_a_kernel_of_today():
    names = {kernel_counts.key(line.split("`")[1]) for line in table_lines()}
    for count in model.counted():
        assert model.BYTES[model.plain(count["kernel"])](model.size_of(count, 32)) > 0
        assert count["kernel"] in names and count["ptx"] > 0, count["kernel"]
    assert {(c["family"], c["case"]) for c in model.counted()} == set(kernel_counts.CASES)


def table_lines() -> list[str]:
    lines = kernel_table.TABLE.read_text().splitlines()
    return [line for line in lines if line.startswith("| ") and "`" in line]


@pytest.mark.parametrize("card", model.CARDS)
def test_the_command_prints_every_kernel(card, capsys, monkeypatch):
    monkeypatch.setattr(kernel_table, "find_nvcc", lambda: None)
    assert model.main([card, "--batch", "8"]) == 0
    told = capsys.readouterr().out
    assert f"not measured: {card}, 8 images" in told
    assert all(count["kernel"] in told for count in model.counted())


def test_a_batch_of_none_is_refused(capsys):
    with pytest.raises(SystemExit):
        model.main(["H100", "--batch", "0"])
    assert "argument --batch: expected 1 or more, got 0" in capsys.readouterr().err


LIMITS = ("launch__occupancy_limit_blocks", "launch__occupancy_limit_warps")
RAW = [
    ("ID", "Kernel Name", "launch__grid_size", "launch__block_size", *LIMITS, "smsp__inst_executed.sum"),
    ("", "", "", "", "block", "block", "inst"),
    (
        "0",
        "void ssd_cuda::scan_kernel<float, (bool)1>(ssd_cuda::A)",
        "384",
        "256",
        "32",
        "8",
        "18,947,114",
    ),
    ("1", "void at::native::vectorized_elementwise_kernel<4>(int)", "1", "128", "32", "16", "10"),
]


def test_rows_of_a_profile():
    lines = [",".join(f'"{cell}"' for cell in row) for row in RAW]
    (row,) = kernel_counts.rows_of(["==PROF== Connected", *lines])
    assert row == {
        "kernel": "scan_kernel<float,1>",
        "blocks": 384,
        "block": 256,
        "resident": 8,
        "instructions": 18947114,
    }


@pytest.mark.parametrize(
    "match, keys",
    [
        (("group_kernel<float>", "match_kernel<float,1>"), "keys_kernel<float,float,0>"),
        (("cluster_match_kernel<float,1>",), "keys_beside_match_kernel<float,float>"),
    ],
)
def test_kernels_are_dealt_to_their_cases(match, keys):
    """Also where a card has clusters, and the losses' first kernel is matching's."""
    order = [
        ("scan_kernel<float,float,1>", "image_kernel<float,float,0>"),
        match,
        match,
        ("hard_negatives_kernel<float,9>",),
        (*match, keys),
        ("nms_tile_kernel<float>", "nms_gather_kernel<8>"),
    ]
    rows = [{"kernel": kernel} for case in order for kernel in case]
    dealt = kernel_counts.by_case(rows, {"detect": {"scan_kernel<float,float,1>": ("scan", 130)}})
    assert [(row["family"], row["case"], row["kernel"]) for row in dealt] == [
        (*case, kernel)
        for case, kernels in zip(kernel_counts.CASES, order, strict=True)
        for kernel in kernels
    ]
    assert (dealt[0]["name"], dealt[0]["ptx"], dealt[1]["ptx"]) == ("scan", 130, 0)
    assert all(kernel.split("<")[0] in model.BYTES for kernel in (*match, keys))
