"""Least-squares fits against numpy, and networks whose removed blocks are made up for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, divergence, make_chain, make_images
from test_surgery import removing
from torch import Tensor, nn

from resprune import compensation, refit
from resprune.chain import ResidualChain
from resprune.compensation import affordable_images, can_compensate, compensate
from resprune.errors import DataError
from resprune.lines import Line
from resprune.refit import at, some_pixels, windows
from resprune.surgery import remove_blocks

CONVOLUTIONS = {
    "3x3": nn.Conv2d(3, 4, 3, padding=1, bias=False),
    "3x3 stride 2": nn.Conv2d(3, 4, 3, stride=2, padding=1),
    "1x1": nn.Conv2d(3, 4, 1),
    "1x1 stride 2": nn.Conv2d(3, 4, 1, stride=2, bias=False),
    "dilated": nn.Conv2d(3, 4, 3, padding=2, dilation=2),
    "oblong": nn.Conv2d(3, 4, (3, 1), padding=(1, 0)),
}


WIDE = ("torchvision basic", "torchvision small stem", "timm deep stem", "timm pre-activation")
"""Windows of 4,608 inputs, for which systems take a minute; others of these families have small ones."""


@pytest.fixture(params=[name for name in ARCHITECTURES if name not in WIDE])
def light(request: pytest.FixtureRequest) -> ResidualChain:
    return make_chain(ARCHITECTURES[request.param])


def test_what_relu_hides_is_not_missing() -> None:
    line = Line(None, (), None, None, (), nn.ReLU())
    own = torch.tensor([-1.0, -1.0, 2.0, 2.0, 0.5])
    target = torch.tensor([-3.0, 1.0, -5.0, 3.0, 0.0])
    assert line.remainder(own, target).tolist() == [0.0, 2.0, -2.0, 1.0, -0.5]
    plain = Line(None, (), None, None, (), nn.Identity())
    assert torch.equal(plain.remainder(own, target), target - own)


def line_of(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> Line:
    return Line(None, (), convolution, norm, (), nn.Identity())


def lines(chain: ResidualChain) -> list[tuple[Line, Tensor]]:
    """Return every part's line that can be fitted, with the states that it sees."""
    found, x = [], chain.stem(make_images(chain, 6))
    for part in chain.parts:
        found += [(line, x) for line in (*Line.of(part).inside, Line.of(part)) if line.can_be_fitted]
        x = part.module(x)
    return found


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("cifar option A", 1),
        ("torchvision bottleneck", 2),
        ("torchvision resnext", 1),
        ("torchvision regnet y", 1),
    ],
)
def test_convolutions_inside_a_branch_are_lines_but_for_those_in_groups(name: str, inside: int) -> None:
    chain = make_chain(ARCHITECTURES[name])
    assert [len(Line.of(block.part).inside) for block in chain.blocks] == [inside] * chain.depth
    part = chain.blocks[0].part
    x = chain.stem(make_images(chain, 2))
    *_, line = Line.of(part).inside
    if name not in ("torchvision resnext", "torchvision regnet y"):  # where the next one has groups
        torch.testing.assert_close(line.activation(line.sum(x)), Line.of(part).before_convolution(x))
    assert not Line.of(remove_blocks(chain, removing(chain, *range(chain.depth))).parts[0]).inside


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_windows_times_weights_are_the_convolution(name: str) -> None:
    conv, x = CONVOLUTIONS[name], torch.randn(2, 3, 8, 7, generator=torch.Generator().manual_seed(0))
    line = line_of(conv)
    with torch.inference_mode():
        out = conv(x)
        pixels = some_pixels(out, 5, seed=1)
        mine = windows(line, x, pixels) @ conv.weight.flatten(1).T
        mine = mine if conv.bias is None else mine + conv.bias
    assert len(set(pixels.tolist())) == 5
    torch.testing.assert_close(mine, at(out, pixels), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_fit_is_ridge_regression(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy in double precision, with a column of ones whose weight costs nothing."""
    monkeypatch.setattr(refit, "RIDGES", (1e-2,))
    monkeypatch.setattr(refit, "ROWS", 10**6)
    conv, generator = CONVOLUTIONS[name], torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, 8, 7, generator=generator)
    line = line_of(conv)
    with torch.inference_mode():
        noise = torch.randn(conv(x).shape, generator=generator)
        target = 0.5 * conv(x) + torch.roll(conv(x), 1, 1) + 0.1 * noise + 1
        fit = refit.fit(line, [x[:4], x[4:]], [target[:4], target[4:]])
        everything = torch.arange(target[0, 0].numel())
        seen, left = windows(line, x, everything), at(target - conv(x), everything)
    assert fit is not None
    train, held = np.arange(10) % 5 != 0, np.arange(10) % 5 == 0

    def rows(values: Tensor, images: np.ndarray) -> np.ndarray:
        return values.double().numpy()[images].reshape(-1, values.shape[-1])

    inputs, wanted = rows(seen, train), rows(left, train)
    mean = inputs.mean(0) if line.has_bias else 0.0
    covariance = (inputs - mean).T @ (inputs - mean) / len(inputs)
    system = covariance + 1e-2 * np.diag(covariance).mean() * np.eye(len(covariance))
    weight = np.linalg.solve(system, (inputs - mean).T @ wanted / len(inputs))
    bias = (wanted - inputs @ weight).mean(0) if line.has_bias else np.zeros(4)
    np.testing.assert_allclose(fit.weight.flatten(1).T, weight, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fit.bias, bias, rtol=1e-4, atol=1e-6)
    rest = rows(left, held) - rows(seen, held) @ weight - bias
    assert fit.error == pytest.approx((rest**2).sum() / len(rest), rel=1e-4)
    assert fit.error_before == pytest.approx((rows(left, held) ** 2).sum() / len(rest), rel=1e-4)


def test_a_fit_that_does_not_help_is_none() -> None:
    conv, generator = nn.Conv2d(3, 4, 1, bias=False), torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, 4, 4, generator=generator)
    with torch.inference_mode():
        exact, broken = conv(x), torch.full((10, 4, 4, 4), float("nan"))
        assert refit.fit(line_of(conv), [x], [exact]) is None
        assert refit.fit(line_of(conv), [x], [broken]) is None
        assert refit.fit(line_of(conv), [x[:1]], [exact[:1] + 1]) is None  # nothing chooses the ridge


def test_layers_that_took_a_fit_in_give_its_sum(light: ResidualChain) -> None:
    chain = light.duplicate()
    generator = torch.Generator().manual_seed(3)
    with torch.inference_mode():
        found = lines(chain)
        assert found
        for line, x in found:
            conv = line.convolution
            assert conv is not None
            target = line.sum(x)
            target = target + 0.1 * target.std() * torch.randn(target.shape, generator=generator)
            target = target + torch.roll(target, 1, 1)
            fit = refit.fit(line, [x], [target])
            assert fit is not None
            wanted, size = line.changed(fit).sum(x), conv.weight.flatten(1).norm(dim=1)
            line.take_in(fit)
            tolerance = 1e-4 * float(wanted.abs().max())
            torch.testing.assert_close(line.sum(x), wanted, rtol=1e-4, atol=tolerance)
            if line.norm is not None:
                torch.testing.assert_close(conv.weight.flatten(1).norm(dim=1), size, rtol=1e-4, atol=1e-6)


def test_the_norm_describes_the_convolution_that_took_a_fit_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training mode must begin with the same function, up to the batch: statistics are those of the images."""
    monkeypatch.setattr(refit, "ROWS", 10**6)
    generator = torch.Generator().manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4).eval()
    x = torch.randn(200, 3, 6, 6, generator=generator)
    line = line_of(conv, norm)
    with torch.inference_mode():
        target = line.sum(x) * 3 + 1
        fit = refit.fit(line, [x], [target])
        assert fit is not None
        line.take_in(fit)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        out = conv(x)
        torch.testing.assert_close(norm.running_mean, out.mean((0, 2, 3)), rtol=0.1, atol=0.02)
        torch.testing.assert_close(norm.running_var, out.var((0, 2, 3)), rtol=0.05, atol=0.01)
        torch.testing.assert_close(line.sum(x), target, rtol=1e-2, atol=1e-2)


def test_layers_that_cannot_be_fitted_are_known() -> None:
    plain, norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    part = copy.copy(make_chain(ARCHITECTURES["cifar option A"]).parts[0])
    for layers, fitted in (
        ((plain, norm), True),
        ((plain, norm, nn.Identity()), True),
        ((plain,), True),
        ((nn.Conv2d(4, 4, 3, groups=2), norm), False),
        ((nn.Conv2d(4, 4, 3, padding_mode="reflect"), norm), False),
        ((plain, nn.BatchNorm2d(4, affine=False)), False),
        ((plain, norm, nn.Sigmoid()), False),
        ((plain, nn.GroupNorm(2, 4)), False),
        ((nn.ReLU(),), False),
    ):
        object.__setattr__(part, "branch", nn.Sequential(*layers))
        line = Line.of(part)
        assert line.can_be_fitted == fitted, layers
        assert (line.unknowns > 0) == fitted


def final_error(chain: ResidualChain, other: ResidualChain, images: Tensor) -> float:
    """Return the mean square difference of the states that the heads see."""
    with torch.inference_mode():
        ours, theirs = (network.with_states(images, [len(network.parts)])[1][0] for network in (other, chain))
    return float((ours - theirs).square().mean())


def test_compensation_brings_states_back_and_keeps_all_else(light: ResidualChain) -> None:
    chain = light
    plan, images = removing(chain, 2), make_images(chain, 40, seed=4)
    pruned = remove_blocks(chain, plan)
    before = {name: tensor.clone() for name, tensor in pruned.network.state_dict().items()}
    origin = {name: tensor.clone() for name, tensor in chain.network.state_dict().items()}
    told: list[int] = []
    result = compensate(chain, pruned, plan, [(x, None) for x in images.split(16)], on_batch=told.append)
    assert told == [40]
    assert all(torch.equal(tensor, before[name]) for name, tensor in pruned.network.state_dict().items())
    assert all(torch.equal(tensor, origin[name]) for name, tensor in chain.network.state_dict().items())
    after = result.network.state_dict()
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert result.architecture == pruned.architecture
    ours, theirs = result.stem(images), pruned.stem(images)
    for one, other in zip(result.blocks[:1], pruned.blocks[:1], strict=True):  # before the part before the cut
        ours, theirs = one(ours), other(theirs)
    assert torch.equal(ours, theirs)
    changed = [name for name, tensor in after.items() if not torch.equal(tensor, before[name])]
    assert bool(changed) == can_compensate(chain, pruned, plan)
    assert final_error(chain, result, images) <= final_error(chain, pruned, images)


@pytest.mark.parametrize("large", [0, compensation.LARGE])
@pytest.mark.parametrize("name", ["cifar option A", "torchvision bottleneck", "preact standard"])
def test_convolutions_inside_a_branch_come_back_too(
    name: str, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compensation, "LARGE", large)
    chain = make_chain(ARCHITECTURES[name])
    plan, images = removing(chain, 1), make_images(chain, 60, seed=4)
    pruned = remove_blocks(chain, plan)

    def missing(network: ResidualChain) -> float:
        """What the first sum inside the last block lacks."""
        sums = []
        for own in (network, chain):
            _, (state,) = own.with_states(images, [len(own.parts) - 1])
            sums.append(Line.of(own.parts[-1]).inside[0].sum(state))
        return float((sums[0] - sums[1]).square().mean())

    with torch.inference_mode():
        before, after = missing(pruned), missing(compensate(chain, pruned, plan, [(images, None)]))
        inside = Line.inside
        monkeypatch.setattr(Line, "inside", ())
        without = compensate(chain, pruned, plan, [(images, None)])
        monkeypatch.setattr(Line, "inside", inside)
        assert after < missing(without) < before


def test_nothing_removed_or_lost_leaves_every_bit() -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    batches = [(make_images(chain, 8), None)]
    for plan in (removing(chain), removing(chain, 7)):
        if plan.removed:
            norm = chain.network.get_submodule(chain.blocks[7].path).bn2
            assert isinstance(norm, nn.BatchNorm2d)
            nn.init.zeros_(norm.weight)
            nn.init.zeros_(norm.bias)
        pruned = remove_blocks(chain, plan)
        result = compensate(chain, pruned, plan, batches)
        own = pruned.network.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in result.network.state_dict().items())


def test_images_are_as_many_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = make_chain(ARCHITECTURES["cifar option A"])
    assert affordable_images(chain) == compensation.MOST_IMAGES
    recipe = chain.preprocessing
    largest = 8 * recipe.height * recipe.width  # the first stage's states, of 8 channels
    monkeypatch.setattr(compensation, "STATE_BYTES", 3 * 4 * largest * 5 + 1)
    assert affordable_images(chain) == 5
    plan = removing(chain, 1)
    pruned = remove_blocks(chain, plan)
    given = iter([(images, None) for images in make_images(chain, 12).split(3)])
    told: list[int] = []
    compensate(chain, pruned, plan, given, on_batch=told.append)
    assert told == [5]
    assert len(list(given)) == 2
    with pytest.raises(DataError, match="no images to fit"):
        compensate(chain, pruned, plan, [])


@pytest.mark.parametrize(("name", "index"), [("torchvision resnext", 4), ("cifar bottleneck", 4)])
def test_a_projection_that_stays_at_the_first_cut_is_fitted(name: str, index: int) -> None:
    """Its inputs are those of the original's block, whose branch it has to make up for."""
    chain = make_chain(ARCHITECTURES[name])
    plan = removing(chain, index)
    assert (index, chain.blocks[index].part.step_is_trivial) == (chain.depth - 1, False)
    cut, data = remove_blocks(chain, plan), [(make_images(chain, 256, seed=3), None)]
    result = compensate(chain, cut, plan, data)
    others = [(make_images(chain, 64, seed=4), None)]
    assert divergence(chain, result, others) < 0.5 * divergence(chain, cut, others)
    before, after = cut.network.state_dict(), result.network.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    path = chain.blocks[index].path
    assert changed
    assert all(name.startswith(path) for name in changed)
