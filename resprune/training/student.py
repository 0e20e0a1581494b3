"""A chain in training: its network, and what its exits have of their own, as one module."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from resprune.chain import ResidualChain, assemble
from resprune.errors import ArchitectureError
from resprune.exits import SkipChainExits, layers_on_the_way
from resprune.records import Heads, Recipe

_NORMS = (nn.modules.batchnorm._NormBase,)


class Student(nn.Module):
    """A copy of a chain whose parameters learn.

    Args:
        chain: Left as it is.
        heads: See `own_exit_state`; None computes no exits at all.
        device: Where it trains; the exits hold on to their tensors, so it is not moved later.
        states: That ``forward`` gives too, see `ResidualChain.with_states`; not together with exits.
        channels_last: Memory format of the convolutions' weights.
    """

    def __init__(
        self,
        chain: ResidualChain,
        heads: Heads | None,
        device: torch.device,
        *,
        states: tuple[int, ...] = (),
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.states = states
        self.network = copy.deepcopy(chain.network).to(device).requires_grad_(True)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
            for parameter in self.network.parameters():
                if parameter.ndim == 4 and parameter.shape[2:] == (1, 1):
                    # Both formats at once, so that a 1x1 convolution's output has its input's: the exits'
                    # states come in the other one.
                    parameter.data = parameter.data.flatten(1)[:, :, None, None]
        self.own = nn.Module()
        # Trained without exits, a network leaves what they had of their own behind.
        rows = {} if heads is None else own_exit_state(chain, heads)
        for name, tensor in rows.items():
            if _is_statistic(name):
                self.own.register_buffer(_flat(name), tensor.to(device))
            else:
                self.own.register_parameter(_flat(name), nn.Parameter(tensor.to(device)))
        whole = assemble(
            self.network, chain.architecture, chain.preprocessing, chain.origin, family=chain.family
        )
        self.chain = replace(whole, exit_state={name: getattr(self.own, _flat(name)) for name in rows})
        self.exits = None if heads is None else SkipChainExits(self.chain)

    def forward(self, images: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the logits of all exits (n, N + 1, classes), or (n, 1, classes) without, and the states."""
        if self.states:
            logits, states = self.chain.with_states(images, self.states)
            return logits.unsqueeze(1), states
        return self.chain(images).unsqueeze(1) if self.exits is None else self.exits(images), ()

    def groups(self, recipe: Recipe) -> list[dict[str, object]]:
        """Return the optimizer's parameter groups; ``heads`` marks the exits' own parameters.

        Lambda is the weight decay of the residual branches. Separate heads see gradients that gamma has made
        small: their rate is divided by gamma (appendix A.1 of the paper) and their weight decay multiplied by
        it, so that they learn as the network's own head does. AdamW does not feel the gradient's size.
        """
        branches = [p for block in self.chain.blocks for p in block.branch.parameters()]
        known = {id(p) for p in branches}
        others = [p for p in self.network.parameters() if id(p) not in known]
        groups: list[dict[str, object]] = [
            {"params": branches, "weight_decay": recipe.branch_decay, "heads": False},
            {"params": others, "weight_decay": recipe.weight_decay, "heads": False},
        ]
        heads = list(self.own.parameters())
        if heads:
            groups.append({"params": heads, "weight_decay": recipe.weight_decay, "heads": True})
        return groups

    def snapshot(self) -> ResidualChain:
        """Return a copy as a chain like any other: on the CPU, in eval mode, without gradients."""
        network = copy.deepcopy(self.network).cpu().eval().requires_grad_(False)
        network.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
        chain = self.chain
        whole = assemble(network, chain.architecture, chain.preprocessing, chain.origin, family=chain.family)
        state = {name: rows.detach().cpu().clone() for name, rows in chain.exit_state.items()}
        return replace(whole, exit_state=state)


def heads_of(chain: ResidualChain) -> Heads:
    """Return the kind of heads that a chain's exits have."""
    return "shared" if all(map(_is_statistic, chain.exit_state)) else "separate"


def own_exit_state(chain: ResidualChain, heads: Heads) -> dict[str, Tensor]:
    """Return what the exits have of their own in training, name -> (exits, ...).

    Shared heads: batch-norm statistics for every norm on the exits' way, no parameters. Separate heads: a
    copy of everything on the way, skip steps and head, for every exit. Both begin where the checkpoint left
    them, else as the network's own.

    Raises:
        ArchitectureError: where a layer on the way hides batch norms, whose statistics would be mixed.
    """
    names, state = chain.tensor_names(), {}
    for layer, exits in layers_on_the_way(chain):
        if not isinstance(layer, nn.BatchNorm2d) and any(isinstance(m, _NORMS) for m in layer.modules()):
            raise ArchitectureError(
                f"exits pass a {type(layer).__name__} that hides a batch norm, which needs statistics for each",
                where=chain.origin.path,
                hint="split it into its layers in the family's adapter, or train with gamma 0",
            )
        for own, tensor in layer.state_dict(keep_vars=True).items():
            if tensor.is_floating_point() and (heads == "separate" or _is_statistic(own)):
                name = names[id(tensor)]
                before = chain.exit_state.get(name)
                if before is None or len(before) != exits:
                    before = tensor.detach().expand(exits, *tensor.shape)
                state[name] = before.clone()
    return state


def _is_statistic(name: str) -> bool:
    return name.endswith(("running_mean", "running_var"))


def _flat(name: str) -> str:
    """Return a name without dots, which torch does not allow in those it registers."""
    return name.replace(".", "__")
