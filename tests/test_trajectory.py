"""What `measure` reports against plain loops, and that it leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import ARCHITECTURES, make_chain, make_images, switch_off
from test_exits import loop
from torch import Tensor
from torch.nn import functional as F

from resprune.chain import ResidualChain
from resprune.errors import ArchitectureError, DataError, ResPruneError
from resprune.records import Trajectory
from resprune.selection import select
from resprune.surgery import remove_blocks, skip_blocks
from resprune.trajectory import Batch, evaluate, measure
from resprune.verify import verify


@pytest.fixture
def data(chain: ResidualChain) -> tuple[Tensor, Tensor]:
    images = make_images(chain, 12)
    return images, torch.randint(0, chain.classes, (12,), generator=torch.Generator().manual_seed(2))


def batches(data: tuple[Tensor, Tensor], size: int) -> list[Batch]:
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def figures(trajectory: Trajectory) -> Tensor:
    names = ["exit_accuracy", "exit_loss", "residual_norm", "residual_norm_relative"]
    names += ["drop_change_relative", "drop_agreement", "parameter_norm"]
    rows = [[getattr(row, name) for name in names] for row in trajectory.rows]
    return torch.tensor(rows, dtype=torch.float64)


@torch.inference_mode()
def test_exit_figures_equal_the_loop(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    images, labels = data
    logits = loop(chain, images).double()
    measured = measure(chain, batches(data, 5))
    scale = math.sqrt(float(logits[:, -1].square().sum(1).mean()))
    for k, row in enumerate(measured.rows):
        norm = math.sqrt(float((logits[:, k + 1] - logits[:, k]).square().sum(1).mean()))
        assert row.residual_norm == pytest.approx(norm, rel=1e-4, abs=1e-5)
        assert row.residual_norm_relative == pytest.approx(norm / scale, rel=1e-4, abs=1e-5)
        assert row.exit_loss == pytest.approx(float(F.cross_entropy(logits[:, k], labels)), rel=1e-4)
        assert row.exit_accuracy == float((logits[:, k].argmax(1) == labels).double().mean())
    assert measured.final.loss == pytest.approx(float(F.cross_entropy(logits[:, -1], labels)), rel=1e-4)
    top5 = (logits[:, -1].topk(5).indices == labels[:, None]).any(1).double().mean()
    assert measured.final.accuracy_top5 == float(top5)


@torch.inference_mode()
def test_drop_effects_equal_the_network_without_the_block(
    chain: ResidualChain, data: tuple[Tensor, Tensor]
) -> None:
    measured = measure(chain, batches(data, 5))
    whole = chain.network(data[0])
    for k, row in enumerate(measured.rows):
        without = skip_blocks(chain, data[0], (k,))
        change = math.sqrt(float((without - whole).square().sum() / whole.square().sum()))
        assert row.drop_change_relative == pytest.approx(change, rel=1e-4, abs=1e-6)
        agree = float((without.argmax(1) == whole.argmax(1)).double().mean())
        assert row.drop_agreement == pytest.approx(agree)


def test_results_do_not_depend_on_the_batch_size(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    one, all_ = measure(chain, batches(data, 1)), measure(chain, batches(data, 12))
    torch.testing.assert_close(figures(one), figures(all_), rtol=1e-4, atol=1e-5)


def test_results_do_not_depend_on_the_order(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    turned = measure(chain, batches((data[0][order], data[1][order]), 5))
    torch.testing.assert_close(figures(turned), figures(measure(chain, batches(data, 5))), rtol=1e-4, atol=1e-5)


def test_two_runs_are_equal(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    assert measure(chain, batches(data, 5)) == measure(chain, batches(data, 5))


def test_zeroed_branch_has_exactly_no_effect(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    # In the middle of the network: a whole stage still follows it.
    switch_off(chain.blocks[1])
    row = measure(chain, batches(data, 5)).rows[1]
    assert row.drop_change_relative == 0.0
    assert row.drop_agreement == 1.0
    assert row.residual_norm < 1e-4 < measure(chain, batches(data, 5)).rows[0].residual_norm


def test_labels_may_be_missing(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    plain = measure(chain, [(data[0], None)])
    assert plain.final.accuracy is None
    assert all(row.exit_loss is None and row.exit_accuracy is None for row in plain.rows)
    assert plain.residual_norms_relative == measure(chain, batches(data, 12)).residual_norms_relative


def test_drop_effects_can_be_left_out(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    assert {row.drop_agreement for row in measure(chain, batches(data, 12), drops=False).rows} == {None}


def test_the_network_is_left_as_it_was(chain: ResidualChain, data: tuple[Tensor, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    measure(chain, batches(data, 5))
    with pytest.raises(RuntimeError):
        measure(chain, [(data[0][:, :, :, :0], None)])
    after = chain.network.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not chain.network.training
    assert not any(layer._forward_hooks for layer in chain.network.modules())


def test_nothing_to_measure_is_an_error() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with pytest.raises(DataError, match="no images"):
        measure(chain, [])
    with pytest.raises(DataError, match="no labels"):
        evaluate(chain, [(make_images(chain, 2), None)])


def test_logits_that_say_nothing_are_an_error() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with torch.no_grad():
        for parameter in chain.head.parameters():
            parameter.zero_()
    with pytest.raises(ArchitectureError, match="all zero"):
        measure(chain, [(make_images(chain, 2), None)])


def test_top_class_ties_break_as_argmax_breaks_them() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with torch.no_grad():
        chain.network.get_parameter("linear.weight").zero_()
        chain.network.get_parameter("linear.bias").fill_(1.0)
    images = make_images(chain, 4)
    assert evaluate(chain, [(images, torch.zeros(4, dtype=torch.int64))]).accuracy == 1.0
    ones = evaluate(chain, [(images, torch.ones(4, dtype=torch.int64))])
    assert (ones.accuracy, ones.accuracy_top5) == (0.0, 1.0)
    assert evaluate(chain, [(images, torch.full((4,), 5))]).accuracy_top5 == 0.0


def test_a_network_without_blocks_has_one_exit() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    bare = remove_blocks(chain, select(depth=0, blocks=chain.depth))
    measured = measure(bare, [(make_images(chain, 2), None)])
    assert measured.rows == ()
    assert measured.final_norm > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_no_hits(value: float) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    with torch.no_grad():
        chain.network.get_parameter("linear.bias").fill_(value)
    batch: Batch = (make_images(chain, 2), torch.zeros(2, dtype=torch.int64))
    for run in (measure, evaluate):
        with pytest.raises(ArchitectureError, match="not finite"):
            run(chain, [batch])
    plan = select(depth=2, blocks=chain.depth)
    with pytest.raises(ResPruneError, match="not finite"):
        verify(chain, remove_blocks(chain, plan), plan, [(batch[0], None)])
