"""How a network is fine-tuned, and what every epoch brought."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args, get_type_hints

from resprune.arguments import check_count, check_number
from resprune.errors import UsageError
from resprune.records.measured import DataSummary, Evaluation
from resprune.records.networks import NetworkSummary, Preprocessing

Heads = Literal["shared", "separate"]
_NON_NEGATIVE = (
    "gamma",
    "gamma_end",
    "branch_decay",
    "weight_decay",
    "vanish",
    "mixup",
    "cutmix",
    "feature_weight",
    "feature_end",
    "plain_epochs",
)
_FRACTIONS = ("teacher_weight", "label_smoothing", "hold_out", "warm_up", "momentum", "ema")
_POSITIVE = ("epochs", "steps", "batch_size", "rate", "temperature", "clip", "accumulate")
_WHOLE = ("epochs", "steps", "batch_size", "accumulate", "plain_epochs", "seed")


@dataclass(frozen=True)
class Recipe:
    """Every choice of a fine-tuning run; the numbers that it depends on besides the weights and the data.

    Attributes:
        epochs: Passes over the training images.
        steps: Number of optimizer steps in the place of ``epochs``.
        batch_size: Images of one optimizer step, over all processes and accumulated parts.
        accumulate: Parts into which each process cuts its share of a batch.
        optimizer: ``sgd`` with Nesterov momentum, or ``adamw``.
        rate: Largest learning rate.
        momentum: Of SGD.
        nesterov: Of SGD.
        schedule: ``cosine`` to zero, ``steps`` (divided by ten at every milestone), or ``constant``.
        milestones: Epochs after which the rate is divided by ten.
        warm_up: Fraction of the steps over which the rate rises from zero.
        gamma: Weight of every exit's loss (equation 3 of the paper).
        gamma_end: Where given, the weight goes there linearly from ``gamma``.
        branch_decay: Lambda, weight decay on the residual branches (Theorem 1 of the paper).
        weight_decay: On everything else.
        heads: Whether the exits share the network's skip steps and head, or have their own; None leaves it
            as the checkpoint has it.
        teacher_weight: Part of the final output's loss that is distillation from the teacher.
        temperature: Of the distillation.
        feature_weight: Weight of the states' distance from the teacher's: behind every block, or at the ends of
            the stages where no more is known to be alike; see `resprune.stage_cost.feature_loss`. Not together
            with a stage cost.
        feature_end: Where given, that weight goes there linearly.
        label_smoothing: Probability that is spread over all classes.
        mixup, cutmix: Parameters of the Beta distributions; 0 is off.
        vanish: Strength of the proximal step that sets branches to zero.
        clip: Largest norm of the gradient.
        ema: Decay of a moving average of the weights, which is then what is measured and written.
        precision: ``fp32``, ``bf16`` autocast, or ``auto``: bf16 on CUDA where it can.
        channels_last: Memory format of the network and its input.
        compile: Whether `torch.compile` compiles the network.
        sync_norms: Whether batch norms see the images of all processes.
        hold_out: Fraction of the training images that the best epoch is chosen on.
        augment: ``auto``, ``none``, ``crop``, ``crop-flip`` or ``timm``.
        auto_augment: timm's policy for large images, such as ``rand-m9-mstd0.5-inc1``.
        plain_epochs: How many of the last epochs see the images as they are at inference, not augmented.
        seed: Of everything drawn.
    """

    epochs: int = 10
    steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Literal["sgd", "adamw"] = "sgd"
    rate: float = 0.02
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Literal["cosine", "steps", "constant"] = "cosine"
    milestones: tuple[int, ...] = ()
    warm_up: float = 0.05
    gamma: float = 0.02
    gamma_end: float | None = None
    branch_decay: float = 1e-4
    weight_decay: float = 1e-4
    heads: Heads | None = None
    teacher_weight: float = 0.9
    temperature: float = 4.0
    feature_weight: float = 0.0
    feature_end: float | None = None
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    vanish: float = 0.0
    clip: float | None = None
    ema: float | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    channels_last: bool = True
    compile: bool = False
    sync_norms: bool = True
    hold_out: float = 0.1
    augment: str = "auto"
    auto_augment: str | None = None
    plain_epochs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (*_NON_NEGATIVE, *_FRACTIONS, *_POSITIVE):
            self._check(name, getattr(self, name))
        for name in _WHOLE:
            value = getattr(self, name)
            if value is not None:
                check_count(name, value, 0)
        hints = get_type_hints(type(self))
        for name in ("optimizer", "schedule", "precision", "heads"):
            value, choices = getattr(self, name), get_args(hints[name])
            if name == "heads":
                choices = (*get_args(Heads), None)
            if value not in choices:
                known = ", ".join(str(choice) for choice in choices if choice is not None)
                raise UsageError(f"{name} {value!r} is none of {known}", hint="choose one of them")
        if self.compares_states and self.stages:
            raise UsageError(
                "features are distilled into the network alone, and gamma trains its exits too",
                hint="use one of the two: gamma 0, or feature_weight 0",
            )
        if self.schedule == "steps" and not self.milestones:
            raise UsageError(
                "the rate falls at milestones, and there are none", hint="name some: --milestones 82,123"
            )
        if self.heads is not None:
            self.check_heads(self.heads)

    def check_heads(self, heads: Heads) -> None:
        """Refuse heads that this recipe cannot train; of a network's own, which a recipe may leave open.

        Raises:
            UsageError: where their rate would be infinite.
        """
        if heads == "separate" and 0 in (self.gamma, self.gamma_end):
            raise UsageError(
                "separate heads learn at the rate divided by gamma, and gamma is 0",
                hint="give a gamma above 0, or --heads shared",
            )

    @property
    def stages(self) -> bool:
        """Whether there is a stage cost at all."""
        return self.gamma > 0 or bool(self.gamma_end)

    @property
    def compares_states(self) -> bool:
        """Whether the teacher's states are learned from at any time."""
        return self.feature_weight > 0 or bool(self.feature_end)

    @property
    def needs_labels(self) -> bool:
        """Whether anything but the teacher says what is right."""
        return self.stages or self.teacher_weight < 1 or bool(self.mixup or self.cutmix)

    def _check(self, name: str, value: float | None) -> None:
        if value is None:
            return
        check_number(name, value)
        wanted = "at least 0" if name in _NON_NEGATIVE else "above 0"
        good = value >= 0 if name in _NON_NEGATIVE else value > 0
        if name in _FRACTIONS:
            wanted, good = "from 0 up to 1", 0 <= value <= 1
            if name in ("hold_out", "momentum", "ema"):
                wanted, good = "from 0 to below 1", 0 <= value < 1
        if not good:
            raise UsageError(f"{name} must be {wanted}, got {value:g}", hint="see resprune finetune --help")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    "paper": Recipe(
        epochs=165,
        rate=0.1,
        nesterov=False,
        schedule="steps",
        milestones=(82, 123),
        warm_up=0.0,
        gamma=0.02,
        teacher_weight=0.0,
    ),
    "heal": Recipe(
        epochs=2,
        rate=0.03,
        gamma=0.0,
        teacher_weight=1.0,
        feature_weight=300.0,
        feature_end=0.0,
        clip=10.0,
        plain_epochs=2,
    ),
}
"""Recipes by name; ``paper`` is that of appendix A.1, its weight decay that of appendix B; ``heal`` brings
pruned networks back to the original's outputs."""


@dataclass(frozen=True)
class EpochRow:
    """What one epoch brought; epoch 0 is the network before any training.

    Attributes:
        epoch: Number of epochs done.
        steps: Optimizer steps done since the beginning.
        seconds: That the epoch took, measuring included.
        images_per_second: Of training alone, over all processes.
        rate, gamma: At the epoch's last step.
        objective: Mean over the epoch's steps of the losses of the objective (equation 3) and of distillation,
            features included, plus the penalty on the branches as the epoch left them; None in epoch 0, like
            all `train_*`.
        train_loss: Mean cross-entropy of the final output on the augmented training images, in nats; None
            without labels.
        train_exit_loss: The same, mean over exits 0..N-1; None without stage cost.
        train_distillation: Mean of the distillation loss; None without a teacher.
        branch_penalty: ``lambda / 2 * sum_k ||w_F,k||^2`` after the epoch.
        zero_branches: Blocks whose branches are exactly zero.
        final: Of the network on the held-out images; None without them.
        exits: The same of exits 0..N-1.
        last_stage_accuracy: Mean accuracy of the exits before the last stage's blocks.
        score: ``error(yhat_N) + gamma * sum_k error(yhat_k)``, what the best epoch has least of.
        best: Whether this was the best epoch so far.
    """

    epoch: int
    steps: int
    seconds: float
    images_per_second: float | None
    rate: float
    gamma: float
    objective: float | None
    train_loss: float | None
    train_exit_loss: float | None
    train_distillation: float | None
    branch_penalty: float
    zero_branches: tuple[int, ...]
    final: Evaluation | None
    exits: tuple[Evaluation, ...]
    last_stage_accuracy: float | None
    score: float | None
    best: bool


@dataclass(frozen=True)
class FinetuneOutcome:
    """What a fine-tuning run did so far.

    Attributes:
        origin: The network it began with.
        result: The best network; of the same architecture.
        recipe: Of the run.
        heads: Kind of heads that the exits have.
        teacher: Name of the teacher; None without one.
        data: Images that were trained on.
        held_out: Images that the best epoch was chosen on; None without any.
        epochs: Number of epochs that the run has.
        rows: One for each epoch done, epoch 0 (before any training) first.
        preprocessing: Of the network.
        classes: Number of its logits.
        loads_in_timm: Whether plain timm can load the result.
        needs_family: Whether reading the result back takes the adapter of a family that is not resprune's.
        constructor: Expression of torchvision's that builds the result; empty where it has none.
        teacher_sha256: Hash of the teacher's file; empty without one.
    """

    origin: NetworkSummary
    result: NetworkSummary
    recipe: Recipe
    heads: Heads
    teacher: str | None
    data: DataSummary
    held_out: DataSummary | None
    epochs: int
    rows: tuple[EpochRow, ...]
    preprocessing: Preprocessing
    classes: int
    loads_in_timm: bool
    needs_family: bool
    constructor: str = ""
    teacher_sha256: str = ""

    @property
    def best(self) -> EpochRow:
        """The epoch whose network is kept; the untrained one until the first epoch is over."""
        return next(row for row in reversed(self.rows) if row.best)
