"""runs/plots.py: what is shown, and that it is the same wherever it is drawn."""

import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from runs import plots
from runs.metrics import measure

NAMES = ("cat", "dog", "ship")
RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]
# Four images of three classes; rows 1 and 3 are wrong.
Y = np.array([0, 1, 0, 1], np.int32)
P = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]], np.float32)
X = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
METRICS = {"dataset": "four $images$", **measure(Y, P)}


def colour(*values):
    """uint8 [N, 16, 16, 3]: an image for each colour."""
    return np.array(values, np.uint8)[:, None, None, :].repeat(16, 1).repeat(16, 2)


def epoch(number, **values):
    return {"epoch": number, "learning_rate": 0.1, "train_loss": 2 / number, **values}


def picture(png):
    """uint8 [H, W, 3] of a PNG file."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(io.BytesIO(png))
    assert struct.unpack(">II", png[16:24]) == (pixels.shape[1], pixels.shape[0])
    return np.round(pixels[..., :3] * 255).astype(np.uint8)


def area(png, value):
    """Share of the picture that is exactly of this colour."""
    return (picture(png) == value).all(axis=-1).mean()


PICTURES = {
    "curves": lambda: plots.curves_png([epoch(1), epoch(2)], "two epochs"),
    "confusion matrix": lambda: plots.confusion_matrix_png(METRICS, NAMES),
    "mistakes": lambda: plots.mistakes_png(X, Y, P, NAMES, "four"),
    "classes": lambda: plots.classes_png(X, Y, NAMES, "four"),
    "batch": lambda: plots.batch_png(X / np.float32(255), P, NAMES, "four"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_the_same_bytes_whatever_the_settings(name):
    data = PICTURES[name]()
    height, width, _ = picture(data).shape
    assert 100 <= width <= 2000 and 100 <= height <= 2000
    assert b"Software" not in data
    with matplotlib.rc_context({"font.size": 30, "text.usetex": True, "lines.linewidth": 9}):
        assert PICTURES[name]() == data


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_no_backend_is_needed(backend):
    code = (
        "import sys\n"
        "from runs import plots\n"
        "assert 'matplotlib' not in sys.modules\n"
        "plots.curves_png([{'epoch': 1}], 'x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(plots.__file__).parent.parent,
        env={**os.environ, "MPLBACKEND": backend},
        check=True,
        timeout=120,
    )


def labelled_lines(axes):
    return {line.get_label(): line.get_ydata().tolist() for line in axes.lines}


def test_confusion_matrix_picture_names_and_counts_everything(figure_of):
    figure = figure_of(plots.confusion_matrix_png, METRICS, NAMES)
    axes = figure.axes[0]
    assert figure.get_suptitle() == "four $images$: 4 images, top-1 accuracy 50.00 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [t.get_text() for t in axes.get_xticklabels()] == list(NAMES)
    assert [t.get_text() for t in axes.get_yticklabels()] == list(NAMES)
    cells = {t.get_position(): t for t in axes.texts}
    assert len(cells) == 9
    assert cells[2, 1].get_text() == "1"  # predicted "ship" (column), true "dog" (row)
    assert cells[0, 0].get_color() == "white" and cells[2, 2].get_color() == "black"


def test_the_confusion_matrix_of_very_many_classes_has_no_words(figure_of):
    side = plots.READABLE_CLASSES + 1
    metrics = {"dataset": "many", "n": side, "accuracy": 1.0, "confusion_matrix": np.eye(side)}
    figure = figure_of(plots.confusion_matrix_png, metrics, [str(n) for n in range(side)])
    assert len(figure.axes[0].texts) == 0 and max(figure.get_size_inches()) < 70


def test_mistakes_are_shown_surest_first_and_unsmoothed(figure_of):
    figure = figure_of(plots.mistakes_png, X, Y, P, NAMES, "four")
    assert figure.get_suptitle() == "four: 2 of 2 mistakes in 4 images, most confident first"
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.texts] == ["dog\n→ ship, 70.0 %", "dog\n→ cat, 40.0 %"]
    assert axes.images[0].get_interpolation() == "nearest"
    shown = axes.images[0].get_array()
    for row, text in zip((3, 1), axes.texts, strict=True):
        left = round(text.get_position()[0] - 15.5)
        assert np.array_equal(shown[:32, left : left + 32], X[row])


@pytest.mark.parametrize("count", [1, 7, 25])
def test_mistakes_are_no_more_than_asked_for(figure_of, count):
    random = np.random.default_rng(0)
    y, p = random.integers(0, 10, 200), random.dirichlet(np.ones(10), 200)
    x = random.integers(0, 256, (200, 32, 32, 3), np.uint8)
    figure = figure_of(plots.mistakes_png, x, y, p, list("abcdefghij"), "noise", count)
    assert len(figure.axes[0].texts) == count


def test_no_mistakes_are_said_in_words(figure_of):
    case = (X, Y, np.eye(3, dtype=np.float32)[Y], NAMES, "easy")
    assert figure_of(plots.mistakes_png, *case).get_suptitle() == "easy: no mistakes in 4 images"
    picture(plots.mistakes_png(*case))


def test_curves_show_accuracy_in_percent_and_only_columns_with_values(figure_of):
    history = [epoch(1, train_accuracy=0.25), epoch(2, train_accuracy=0.5, valid_accuracy=0.4)]
    figure = figure_of(plots.curves_png, history, "a run")
    loss, accuracy, rate = figure.axes
    assert figure.get_suptitle() == "a run"
    assert labelled_lines(loss) == {"train": [2.0, 1.0]}
    assert [t.get_text() for t in loss.get_legend().get_texts()] == ["train"]
    assert labelled_lines(accuracy) == {"train": [25.0, 50.0], "validation": [40.0]}
    assert accuracy.lines[1].get_xdata().tolist() == [2]
    assert list(labelled_lines(rate).values()) == [[0.1, 0.1]] and rate.get_legend() is None


@pytest.mark.parametrize("epochs", [1, 200])
def test_curves_work_for_one_epoch_and_for_many(figure_of, epochs):
    history = [epoch(i) for i in range(1, epochs + 1)]
    axes = figure_of(plots.curves_png, history, "").axes[0]
    assert (axes.lines[0].get_marker() == "o") == (epochs == 1)
    assert all(tick == round(tick) for tick in axes.get_xticks())
    picture(plots.curves_png(history, ""))


def test_a_gallery_draws_each_image_in_equal_size():
    png = plots.gallery_png(colour(RED, GREEN, BLUE), ["a", "b", "c"], 2, "three")
    assert area(png, RED) * picture(png)[..., 0].size > 50 * 50  # pixels of the screen
    assert area(png, RED) == pytest.approx(area(png, GREEN), rel=0.1)
    assert area(png, RED) == pytest.approx(area(png, BLUE), rel=0.1)


def test_a_gallery_takes_floats_and_clips_them():
    images = colour(RED, GREEN).astype(np.float32) / 255
    png = plots.gallery_png(images, ["", ""], 2, "")
    assert plots.gallery_png(images * 3 - 1, ["", ""], 2, "") == png
    assert plots.gallery_png(colour(RED, GREEN), ["", ""], 2, "") == png


def test_classes_have_a_row_each_with_their_first_images_filled_up_with_white(figure_of):
    x, y = colour(RED, GREEN, BLUE, RED, RED), np.array([2, 0, 0, 2, 2])
    (axes,) = figure_of(plots.classes_png, x, y, NAMES, "colours", 2).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == list(NAMES)
    shown = axes.images[0].get_array()
    pitch = (shown.shape[0] - 16) // 2
    places = [shown[row * pitch, column * pitch].tolist() for row in range(3) for column in (0, 1)]
    assert places == [GREEN, BLUE, WHITE, WHITE, RED, RED]


def test_a_batch_is_captioned_with_what_it_is_taught(figure_of):
    labels = np.array([[0.25, 0.75, 0], [0, 0, 1], [0.998, 0.002, 0]], np.float32)
    images = np.zeros((3, 16, 16, 3), np.float32)
    (axes,) = figure_of(plots.batch_png, images, labels, NAMES, "colours", 2).axes
    assert [t.get_text() for t in axes.texts] == ["75 % dog\n25 % cat", "100 % ship", "100 % cat"]
