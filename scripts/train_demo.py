"""Train the network that ``resprune ... demo`` shows, and write the folder ``resprune/demo``.

A homogeneous pre-activation ResNet (paper, appendix A.1) learns Fashion-MNIST with the stage cost, all
exits through the shared head with batch-norm statistics of their own. A proximal step on every residual
branch (group lasso on its last convolution) sets branches that the task does not need to exactly zero.

The data is Debian's package ``dataset-fashion-mnist`` (Zalando, MIT licence):

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb /tmp/fashion
    python scripts/train_demo.py --data /tmp/fashion/usr/share/datasets/fashion-mnist

The last 5,000 training images are held out. Constants were chosen on them; the first 2,000 of them are
shipped. The test images are read once, for the last lines printed.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import math
import struct
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from resprune import families
from resprune.chain import ResidualChain, assemble
from resprune.families import preact
from resprune.records import Origin, Preprocessing
from resprune.stage_cost import shrink_branches, stage_cost, zero_branches
from resprune.training.student import Student

CLASSES = [
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
]  # fmt: skip
HELD_OUT, SHIPPED = 5_000, 2_000
PREPROCESSING = Preprocessing(
    1, 28, 28, mean=(0.2860,), std=(0.3530,), source="Fashion-MNIST's training images"
)


def read_idx(path: Path) -> np.ndarray:
    """Read one of the data set's gzipped IDX files of unsigned bytes."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = struct.unpack(f">{dimensions}I", content[4 : 4 + 4 * dimensions])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def normalise(images: np.ndarray) -> Tensor:
    """(n, 28, 28) bytes -> (n, 1, 28, 28) network input."""
    pixels = torch.from_numpy(images.copy()).unsqueeze(1).float() / 255
    return (pixels - PREPROCESSING.mean[0]) / PREPROCESSING.std[0]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each image by up to two pixels and mirror half of them."""
    n = len(images)
    padded = F.pad(images, (2, 2, 2, 2), value=-PREPROCESSING.mean[0] / PREPROCESSING.std[0])
    rows = torch.randint(0, 5, (n, 1), generator=generator) + torch.arange(28)
    columns = torch.randint(0, 5, (n, 1), generator=generator) + torch.arange(28)
    mirrored = torch.rand(n, generator=generator) < 0.5
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


@torch.inference_mode()
def exit_accuracies(student: Student, images: Tensor, labels: Tensor) -> list[float]:
    """Return the accuracy of every exit, the network's own last."""
    student.eval()
    hits = sum(
        (student.forward(batch)[0].argmax(2) == target[:, None]).sum(0)
        for batch, target in zip(images.split(500), labels.split(500), strict=True)
    )
    student.train()
    return [float(hit) / len(labels) for hit in hits]  # pyright: ignore[reportGeneralTypeIssues]


def train(
    options: argparse.Namespace, images: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor]
) -> Student:
    """Return the trained network with its exits."""
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    architecture = preact.architecture(
        f"preact-resnet{2 * options.blocks + 2}",
        [options.blocks],
        [options.width],
        in_channels=1,
        classes=len(CLASSES),
        stem_stride=2,
    )
    network = families.build(architecture, device="cpu")
    untrained = assemble(network, architecture, PREPROCESSING, Origin("", "", ""))
    student = Student(untrained, "shared", torch.device("cpu"), channels_last=False).train()
    chain = student.chain
    branches = [p for block in chain.blocks for p in block.branch.parameters()]
    others = [p for p in student.parameters() if not any(p is branch for branch in branches)]
    groups = [
        {"params": branches, "weight_decay": options.branch_decay},
        {"params": others, "weight_decay": options.weight_decay},
    ]
    optimizer = torch.optim.SGD(groups, lr=options.rate, momentum=0.9, nesterov=True)
    steps = options.epochs * (len(images) // options.batch)
    step = 0
    for epoch in range(options.epochs):
        started, loss_sum = time.monotonic(), 0.0
        order = torch.randperm(len(images), generator=generator)
        for chosen in order[: len(images) // options.batch * options.batch].split(options.batch):
            warm_up = min(1.0, (step + 1) / (0.05 * steps))
            rate = options.rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits, _ = student.forward(augment(images[chosen], generator))
            loss = stage_cost(logits, labels[chosen], options.gamma).total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            shrink_branches(chain, rate * options.vanish)
            loss_sum += loss.item()
            step += 1
        zero, accuracies = len(zero_branches(chain)), exit_accuracies(student, *held_out)
        print(
            f"epoch {epoch + 1}/{options.epochs}  J {loss_sum * options.batch / len(images):.4f}"
            f"  zero branches {zero}  held-out {' '.join(f'{100 * a:.1f}' for a in accuracies)}"
            f"  {time.monotonic() - started:.0f} s",
            flush=True,
        )
    return student


def write(folder: Path, trained: ResidualChain, images: np.ndarray, labels: np.ndarray) -> None:
    """Write weights, exit statistics, config and the sample of held-out images."""
    from resprune.exporting.folder import write_network

    folder.mkdir(parents=True, exist_ok=True)
    write_network(trained, folder)
    rows = []
    for image, label in zip(images, labels, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="PNG", optimize=True)
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "label": int(label)})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": CLASSES}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "validation.parquet", compression="zstd")


def main() -> None:
    """Train, write, and print the test accuracies of the exits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the gzipped IDX files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "resprune" / "demo")
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--gamma", type=float, default=0.1)
    parser.add_argument("--vanish", type=float, default=7e-4)
    parser.add_argument("--branch-decay", type=float, default=1e-4)
    parser.add_argument("--weight-decay", type=float, default=5e-4)
    parser.add_argument("--limit", type=int, help="train on so many images only, to try constants")
    parser.add_argument("--no-test", action="store_true", help="leave the test images alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = read_idx(options.data / "train-images-idx3-ubyte.gz")
    labels = read_idx(options.data / "train-labels-idx1-ubyte.gz")
    inputs, targets = normalise(images), torch.from_numpy(labels.astype(np.int64))
    held_out = (inputs[-HELD_OUT:], targets[-HELD_OUT:])
    limit = options.limit or len(inputs) - HELD_OUT
    student = train(options, inputs[:-HELD_OUT][:limit], targets[:-HELD_OUT][:limit], held_out)
    if not options.limit:
        first = len(images) - HELD_OUT
        write(options.out, student.snapshot(), images[first : first + SHIPPED], labels[first : first + SHIPPED])
    if not options.no_test:
        test_inputs = normalise(read_idx(options.data / "t10k-images-idx3-ubyte.gz"))
        test_labels = torch.from_numpy(read_idx(options.data / "t10k-labels-idx1-ubyte.gz").astype(np.int64))
        for k, accuracy in enumerate(exit_accuracies(student, test_inputs, test_labels)):
            print(f"test accuracy of exit {k:2d}: {100 * accuracy:.2f} %")


if __name__ == "__main__":
    main()
