"""Bounds 1 and 2: against numbers worked out by hand, the paper's tables, and wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain

from resprune import bounds as theorems
from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, DataError, UsageError
from resprune.records import BlockRow, Evaluation, Trajectory
from resprune.selection import select
from resprune.surgery import remove_blocks

STANDARD = """
0 1.326 0.570 2.758 2.187 0.340 2.507 2.167
6 0.327 0.570 1.173 0.603 0.340 21.238 20.898
12 0.252 0.570 1.186 0.616 0.340 28.063 27.723
18 0.228 0.570 1.274 0.704 0.340 34.451 34.112
24 0.072 0.570 1.549 0.979 0.340 58.629 58.289
30 0.006 0.570 2.128 1.558 0.340 90.931 90.591
36 0.004 0.570 2.409 1.839 0.340 103.758 103.418
42 0.002 0.570 2.189 1.618 0.340 93.293 92.953
48 0.001 0.570 2.253 1.682 0.340 96.334 95.994
54 0.002 0.570 2.232 1.662 0.340 94.822 94.483
"""
HOMOGENEOUS = """
0 1.188 0.245 2.470 2.225 0.087 2.246 2.159
6 0.003 0.245 0.421 0.176 0.087 13.275 13.188
12 0.001 0.245 0.537 0.292 0.087 18.518 18.431
18 0.001 0.245 0.574 0.330 0.087 20.260 20.173
24 0.005 0.245 0.728 0.483 0.087 25.312 25.225
30 0.001 0.245 0.761 0.516 0.087 28.229 28.142
36 0.001 0.245 0.813 0.568 0.087 30.843 30.756
42 0.001 0.245 0.801 0.556 0.087 30.287 30.200
48 0.004 0.245 0.925 0.680 0.087 34.440 34.353
54 0.001 0.245 0.942 0.697 0.087 36.772 36.685
"""
BLOCKS, GAMMA = 54, 0.02


def rows(table: str) -> list[tuple[int, list[float]]]:
    return [(int(m), [float(word) for word in rest]) for m, *rest in map(str.split, table.strip().splitlines())]


def trajectory(losses: list[float], norms: list[float]) -> Trajectory:
    blocks = [
        BlockRow(k, f"{k}", 0, 0.5, loss, 1.0, 0.1, norm, None, None, 1, 1)
        for k, (loss, norm) in enumerate(zip(losses[:-1], norms, strict=True))
    ]
    return Trajectory(Evaluation(0.5, None, losses[-1], 10), tuple(blocks), 1.0)


def test_every_term_by_hand() -> None:
    network = trajectory([2.0, 1.0, 0.5, 0.25], [1.0, 2.0, 3.0])
    sub = trajectory([4.0, 0.5], [2.0])
    found = theorems.bounds(network, sub, gamma=0.5, branch_decay=0.1)
    assert (found.sub_blocks, found.sub_loss) == (1, 0.5)
    # 0.5 (2 + 1 + 0.5) + 0.05 (1 + 4 + 9) + 0.25
    assert found.objective == pytest.approx(2.7)
    # 0.5 * 4 + 0.05 * 4 + (1 + 0.5 * 2) * 0.5
    assert found.objective_bound == pytest.approx(3.2)
    assert found.objective_gap == pytest.approx(0.5)
    # (2 + 1 + 0.5 + 0.25) / 4
    assert found.average_loss == pytest.approx(0.9375)
    # C = 4 + (1 - 0.5 - 0.5) / 0.5 * 0.5 = 4; 0.5 + 4 / 4
    assert found.average_loss_bound == pytest.approx(1.5)
    assert found.average_loss_gap == pytest.approx(0.5625)


def test_the_bounds_are_those_of_the_weights_that_the_proof_takes() -> None:
    """A network that is its SubResNet and skip steps meets bound 1, and bound 2 but for (1-gamma) L/gamma."""
    sub = trajectory([3.0, 2.0, 0.5], [1.0, 2.0])
    same = trajectory([3.0, 2.0, 0.5, 0.5, 0.5], [1.0, 2.0, 0.0, 0.0])
    found = theorems.bounds(same, sub, gamma=0.1, branch_decay=0.2)
    assert found.objective_gap == pytest.approx(0)
    assert found.average_loss_gap == pytest.approx((1 - 0.1) * 0.5 / 0.1 / 5)


@pytest.mark.parametrize("table", [STANDARD, HOMOGENEOUS])
def test_the_papers_gaps_are_differences_and_its_first_rows_are_the_theorems(table: str) -> None:
    for m, (loss, objective, bound, gap, average, average_bound, average_gap) in rows(table):
        # Every figure is rounded to 0.0005, so a difference of two is right to 0.0015.
        assert gap == pytest.approx(bound - objective, abs=1.5e-3)
        assert average_gap == pytest.approx(average_bound - average, abs=1.5e-3)
        if m == 0:  # nothing but L_bar is in the bounds of the stem and the head alone
            assert bound == pytest.approx(
                theorems.objective_bound([loss], [], GAMMA, 1e-4, blocks=BLOCKS), abs=1.6e-3
            )
            assert average_bound == pytest.approx(
                theorems.average_loss_bound([loss], GAMMA, blocks=BLOCKS), abs=1.5e-3
            )
        # gamma times the sum of all exits' losses is at most J, gamma being at most 1.
        assert GAMMA * (BLOCKS + 1) * average <= objective


@pytest.mark.parametrize("table", [STANDARD, HOMOGENEOUS])
def test_the_papers_second_bound_adds_the_exits_losses_and_not_their_mean(table: str) -> None:
    """Where M > 0 the printed L_bar_avg is not that of Theorem 2, which divides the sum by N + 1 too.

    By the theorems gamma (N + 1) L_bar_avg = J_bar minus the weight decay, so it is at most J_bar. The printed
    figures are far above it. Read as L_bar + sum + ((1 - gamma - gamma M) / gamma L_bar) / (N + 1) they leave a
    weight decay that is positive in every row, as it must be, and less than the bound.
    """
    for m, (loss, _, bound, _, _, average_bound, _) in rows(table)[1:]:
        assert GAMMA * (BLOCKS + 1) * average_bound > 5 * bound
        rest = (1 - GAMMA - GAMMA * m) / GAMMA * loss / (BLOCKS + 1)
        total = average_bound - loss - rest
        decay = bound - GAMMA * total - (1 + GAMMA * (BLOCKS - m)) * loss
        assert 0.05 < decay < bound


def test_what_is_refused() -> None:
    network, sub = trajectory([1.0, 0.5], [1.0]), trajectory([1.0, 1.0, 0.5], [1.0, 1.0])
    with pytest.raises(ArchitectureError, match="2 blocks, which is no SubResNet of 1 blocks"):
        theorems.bounds(network, sub, gamma=0.1, branch_decay=0)
    for gamma in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(UsageError, match="a gamma above 0 and at most 1"):
            theorems.bounds(network, network, gamma=gamma, branch_decay=0)
    with pytest.raises(UsageError, match="lambda must be at least 0"):
        theorems.bounds(network, network, gamma=0.1, branch_decay=-1)
    with pytest.raises(DataError, match="no labels"):
        theorems.exit_losses(replace(network, final=Evaluation(None, None, None, 10)))
    other = replace(network, final=replace(network.final, samples=11))
    with pytest.raises(DataError, match="11 images instead of 10"):
        theorems.bounds(network, other, gamma=0.1, branch_decay=0)


def test_subresnets_are_recognised() -> None:
    chain = make_chain(ARCHITECTURES["preact standard"])
    for depth in range(chain.depth + 1):
        theorems.check_sub(chain, remove_blocks(chain, select(depth=depth, blocks=chain.depth)))
    with pytest.raises(ArchitectureError, match="no SubResNet of 3 blocks"):
        theorems.check_sub(remove_blocks(chain, select(depth=3, blocks=chain.depth)), chain)
    with pytest.raises(ArchitectureError, match=r"block 2 .* has other parameters"):
        theorems.check_sub(chain, _without_its_widening(chain))


def _without_its_widening(chain: ResidualChain) -> ResidualChain:
    """The same chain without its second stage's first block: what follows has other shapes."""
    plan = select(remove=["2"], paths=[block.path for block in chain.blocks])
    return remove_blocks(chain, plan)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A network and its SubResNet, in folders."""
    from resprune.exporting.folder import write_network

    chain = make_chain(ARCHITECTURES["cifar option A"])
    made = []
    for name, depth in (("whole", chain.depth), ("sub", 4)):
        made.append(tmp_path / name)
        made[-1].mkdir()
        write_network(remove_blocks(chain, select(depth=depth, blocks=chain.depth)), made[-1])
    return made[0], made[1]


def test_the_command(files: tuple[Path, Path], image_folder: Callable[..., Path]) -> None:
    whole, sub = files
    words = (
        "analyze",
        whole,
        "--data",
        image_folder(),
        "--bounds",
        "--sub",
        sub,
        "--gamma",
        "0.1",
        "--no-drops",
    )
    found = json.loads(run(*words, "--json").stdout)
    terms, losses = found["bounds"], [block["exit_loss"] for block in found["blocks"]]
    assert terms["sub"]["path"] == str(sub)
    assert terms["sub"]["blocks"] == 4
    assert (terms["gamma"], terms["lambda"]) == (0.1, 1e-4)
    assert terms["L_bar"] == pytest.approx(losses[4], rel=1e-5)
    norms = sum(block["parameter_norm"] ** 2 for block in found["blocks"])
    j = 0.1 * sum(losses) + found["final"]["loss"] + 1e-4 / 2 * norms
    assert terms["bound_1"]["J"] == pytest.approx(j)
    # The SubResNet is a part of the network here, so that its exits are the network's first four.
    own = 0.1 * sum(losses[:4]) + 1e-4 / 2 * sum(b["parameter_norm"] ** 2 for b in found["blocks"][:4])
    assert terms["bound_1"]["J_bar"] == pytest.approx(own + (1 + 0.1 * 4) * losses[4], rel=1e-5)
    assert terms["bound_1"]["gap"] == pytest.approx(terms["bound_1"]["J_bar"] - terms["bound_1"]["J"])
    assert terms["bound_2"]["L_avg"] == pytest.approx((sum(losses) + found["final"]["loss"]) / 9)
    shown = run(*words).stdout
    assert "bound 1: J, J_bar" in shown
    assert f"{terms['bound_2']['L_bar_avg']:.4f}" in shown


def test_gamma_and_lambda_of_the_run(files: tuple[Path, Path], image_folder: Callable[..., Path]) -> None:
    whole, sub = files
    config = json.loads((whole / "config.json").read_text())
    recipe = {"gamma": 0.5, "gamma_end": None, "branch_decay": 0.25}
    words = ("analyze", whole, "--data", image_folder(), "--bounds", "--sub", sub, "--no-drops", "--json")
    for change, gamma in ((recipe, 0.5), (recipe | {"gamma_end": 0.125}, 0.125)):
        config["resprune"]["recipe"] = change
        (whole / "config.json").write_text(json.dumps(config))
        terms = json.loads(run(*words).stdout)["bounds"]
        assert (terms["gamma"], terms["lambda"]) == (gamma, 0.25)
    assert json.loads(run(*words, "--lambda", "0").stdout)["bounds"]["lambda"] == 0
    config["resprune"]["recipe"] = {"gamma": "much"}
    (whole / "config.json").write_text(json.dumps(config))
    assert "--gamma" in refusal(3, *words)


def test_wrong_input(files: tuple[Path, Path], image_folder: Callable[..., Path], tmp_path: Path) -> None:
    whole, sub = files
    data = ("--data", image_folder())
    assert "no SubResNet of 4 blocks" in refusal(3, "analyze", sub, *data, "--bounds", "--sub", whole)
    assert "--sub" in refusal(2, "analyze", whole, *data, "--bounds")
    assert "--bounds" in refusal(2, "analyze", whole, *data, "--sub", sub)
    assert "--bounds" in refusal(2, "analyze", whole, *data, "--gamma", "0.1")
    assert "gamma" in refusal(2, "analyze", whole, *data, "--bounds", "--sub", sub, "--gamma", "0")
    classes = tmp_path / "classes.pth"
    torch.save(make_chain(ARCHITECTURES["torchvision basic"]).network.state_dict(), classes)
    assert "7 classes instead of 10" in refusal(3, "analyze", whole, *data, "--bounds", "--sub", classes)
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, image in enumerate(sorted(data[1].rglob("*.png"))[:4]):
        (flat / f"{index}.png").write_bytes(image.read_bytes())
    line = refusal(3, "analyze", whole, "--data", flat, "--bounds", "--sub", sub)
    assert "there are no labels" in line
