"""Accuracy of every class at every exit: against a naive loop, and wherever it is shown."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch
from commands import refusal, run
from conftest import ARCHITECTURES, make_chain, make_images
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from studies import analysis, classwise
from test_exits import loop
from test_report import contrast, study

import resprune
from resprune import trajectory
from resprune.errors import ResultError
from resprune.records import Classwise
from resprune.report import classes, drawing, page, plots, reading
from resprune.report.drawing import Plot
from resprune.report.palette import DARK, LIGHT


@torch.inference_mode()
@pytest.mark.parametrize("name", ["cifar option A", "preact standard", "torchvision bottleneck"])
def test_hits_are_those_of_a_loop_over_images_and_exits(name: str) -> None:
    chain = make_chain(ARCHITECTURES[name])
    images = make_images(chain, 30)
    labels = torch.randint(chain.classes - 1, (30,), generator=torch.Generator().manual_seed(0))
    batches = [(images[:12], labels[:12]), (images[12:], labels[12:])]
    found = trajectory.measure(chain, batches, drops=False, classwise=True)
    assert found.classwise is not None
    logits = loop(chain, images)
    counts = [0] * chain.classes
    hits = [[0] * chain.classes for _ in range(chain.depth + 1)]
    for image, label in enumerate(labels.tolist()):
        counts[label] += 1
        for k in range(chain.depth + 1):
            hits[k][label] += int(logits[image, k].argmax()) == label
    assert found.classwise.counts == tuple(counts)
    assert [list(row) for row in found.classwise.hits] == hits
    assert found.classwise.accuracy(0, chain.classes - 1) is None
    exits = [*(row.exit_accuracy for row in found.rows), found.final.accuracy]
    assert [sum(row) / 30 for row in found.classwise.hits] == pytest.approx(exits)
    plain = trajectory.measure(chain, batches, drops=False)
    assert plain.classwise is None
    assert plain.rows == found.rows


def test_a_frame_has_a_line_a_class() -> None:
    found = Classwise((4, 0, 2), ((1, 0, 2), (3, 0, 1)), ("cat", "dog"))
    frame = found.to_frame()
    assert list(frame.columns) == ["class", "name", "images", "exit_0", "exit_1"]
    assert list(frame["name"]) == ["cat", "dog", "2"]
    assert list(frame["images"]) == [4, 0, 2]
    assert frame["exit_0"].tolist()[::2] == [0.25, 1.0]
    assert frame["exit_1"].isna().tolist() == [False, True, False]


def test_the_command_tells_them(cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path) -> None:
    words = ("analyze", cifar_file, "--data", image_folder(), "--no-drops")
    done = run(*words, "--json", "--classwise-csv", tmp_path / "classes.csv")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    told = found["classwise"]
    assert told["names"] == [f"class{index}" for index in range(10)]
    assert told["counts"] == [2] * 10
    assert [sum(row) / 10 for row in told["accuracy"]] == pytest.approx(
        [*(block["exit_accuracy"] for block in found["blocks"]), found["final"]["accuracy"]]
    )
    frame = pandas.read_csv(tmp_path / "classes.csv")
    assert frame["exit_8"].tolist() == told["accuracy"][8]
    assert json.loads(run(*words, "--json").stdout)["classwise"] is None
    shown = run(*words, "--classwise").stdout
    assert "Accuracy of classes at exits, %" in shown
    assert max(map(len, shown.splitlines())) <= 80
    read = reading.study(found, "net").analysis.trajectory.classwise
    assert read is not None
    assert (read.counts, read.names) == ((2,) * 10, tuple(told["names"]))
    assert read.accuracy(3, 4) == told["accuracy"][3][4]


def test_without_labels_they_are_refused(
    cifar_file: Path, image_folder: Callable[..., Path], tmp_path: Path
) -> None:
    flat = image_folder("flat", classes=1) / "class0"
    words = ("analyze", cifar_file, "--data", flat)
    assert run(*words, "--no-drops").exit_code == 0
    line = refusal(3, *words, "--classwise")
    assert "no labels to tell classes by" in line
    assert "class folders" in line


def test_a_heat_map_has_numbers_where_there_is_room_and_the_ends_of_many_classes() -> None:
    def drawn(stages: tuple[int, ...], count: int) -> str:
        made = plots.plots([study(classwise(analysis(stages), count, names=count < 100))])
        return next(plot for plot in made if plot.name == "classes").svg()

    small, many = drawn((2, 2), 6), drawn((2, 2), 400)
    content = classwise(analysis((2, 2)), 6)["classwise"]
    for value in {own for row in content["accuracy"] for own in row[:-1]}:
        cells = sum(row[:-1].count(value) for row in content["accuracy"])
        assert small.count(f">{100 * value:.0f}</text>") >= cells
    assert all(f">kind {label}</text>" in small for label in range(5))
    assert ">kind 5</text>" not in small  # it has no images
    assert small.count(">75 %</text>") == many.count(">75 %</text>") == 1
    assert ">100</text>" not in many
    assert small.count("class</text>") == many.count("class</text>") == 1
    text = page.render([study(classwise(analysis(), 6), "one"), study(analysis(seed=1), "other")])
    assert 'id="plot-classes-1"' in text
    assert 'id="plot-classes-2"' not in text


def test_a_heat_map_is_an_image_of_the_accuracies() -> None:
    content = classwise(analysis((2, 2)), 31)
    for text in (page.render([study(content)]), plot_of(content).svg()):
        found = re.search(r'<image [^>]*href="data:image/png;base64,([^"]*)"', text)
        assert found is not None
        pixels = numpy.asarray(Image.open(BytesIO(base64.b64decode(found[1]))).convert("RGBA"))
        accuracies = numpy.array([row[:-1] for row in content["classwise"]["accuracy"]]).T
        assert pixels[..., 3] / 255 == pytest.approx(classes.STRONGEST * accuracies, abs=1 / 255)
        assert f'width="5" height="{len(accuracies)}"' in text


def test_no_name_of_a_class_is_cut() -> None:
    content = classwise(analysis((2, 2)), 6)
    content["classwise"]["names"] = ["W" * 12] * 6
    with drawing.figure_of(plot_of(content), LIGHT) as figure:
        canvas = figure.canvas
        assert isinstance(canvas, FigureCanvasAgg)
        words = figure.axes[0].yaxis.get_tightbbox(canvas.get_renderer())
        assert words is not None
        assert words.x0 >= 0
        assert figure.axes[0].get_position().width > 0.3


def plot_of(content: dict[str, Any]) -> Plot:
    return next(plot for plot in plots.plots([study(content)]) if plot.name == "classes")


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_numbers_in_cells_are_readable(scheme: dict[str, str]) -> None:
    def parts(colour: str) -> list[int]:
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

    pairs = zip(parts(scheme["accent"]), parts(scheme["paper"]), strict=True)
    mixed = [classes.STRONGEST * above + (1 - classes.STRONGEST) * below for above, below in pairs]
    assert contrast(scheme["ink"], "#" + "".join(f"{round(part):02x}" for part in mixed)) >= 4.5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"accuracy": []}, "classwise.accuracy: not 8 exits of 6 classes"),
        ({"accuracy": [[2.0] * 6] * 8}, "a fraction from 0 to 1"),
        ({"accuracy": [3] * 8}, "a list is expected"),
        ({"counts": [1.5] * 6}, "a whole number"),
        ({"names": ["x"] * 7}, "classwise.names: 7 of 6 classes"),
    ],
)
def test_results_that_are_none_are_refused(change: dict[str, object], said: str) -> None:
    content = classwise(analysis(), 6)
    content["classwise"] = content["classwise"] | change
    with pytest.raises(ResultError, match=said):
        reading.study(content, "net")


def test_python_has_them_too(cifar_file: Path, image_folder: Callable[..., Path]) -> None:
    chain = resprune.load(cifar_file, device="cpu")
    found = resprune.analyze(chain, image_folder(), drops=False, classwise=True)
    assert found.trajectory.classwise is not None
    assert found.trajectory.classwise.name(3) == "class3"
    assert "classes" in resprune.draw(found)
