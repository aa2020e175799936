"""Report.py: what is measured, what is shown, and what is refused."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machine.errors import RunError, UserError
from runs import metrics as report

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

# Four images of three classes, none of class 2; rows 0 and 2 are right.
Y = np.array([0, 1, 0, 1], np.int32)
P = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]], np.float64)


def epoch(number, **values):
    return {"epoch": number, "learning_rate": 0.1, "train_loss": 2 / number, **values}


def one_hot(classes, num_classes=10):
    return np.eye(num_classes, dtype=np.float32)[classes]


def png_size(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82")
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def figure_of(monkeypatch):
    """Return a function that draws and gives back the figure in place of its PNG."""

    def draw(function, *args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(report, "_png", lambda figure: figure)
            return function(*args, **kwargs)

    return draw


def labelled_lines(axes):
    return {line.get_label(): line.get_ydata().tolist() for line in axes.lines}


# Metrics


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [
        (92, 100, 0.8500, 0.9589),
        (9216, 10000, 0.9162, 0.9267),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_interval_gives_the_tabulated_values(correct, n, low, high):
    assert report.wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_the_score_equation(case):
    correct, n = case
    p = correct / n
    low, high = report.wilson_interval(correct, n)
    assert 0 <= low <= p <= high <= 1 and low < high
    for end in (low, high):
        squared = 1.959963984540054**2 * end * (1 - end) / n
        assert (p - end) ** 2 == pytest.approx(squared, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_wilson_interval_refuses_impossible_counts(correct, n):
    with pytest.raises(UserError, match=f"found correct={correct}, n={n}"):
        report.wilson_interval(correct, n)


def test_calibration_error_by_hand():
    # Bin (0, 0.5]: confidences 0.5 and 0.4, accuracy 1/2, gap 0.05.
    # Bin (0.5, 1]: confidences 0.8 and 0.7, accuracy 1/2, gap 0.25.
    assert report.expected_calibration_error(Y, P, bins=2) == pytest.approx((0.05 + 0.25) / 2)


def test_calibration_error_of_one_bin_is_accuracy_against_mean_confidence():
    assert report.expected_calibration_error(Y, P, bins=1) == pytest.approx(0.6 - 0.5)


def test_calibration_error_of_perfect_calibration_is_zero():
    probabilities = np.tile([0.7, 0.3], (10, 1))
    labels = np.array([0] * 7 + [1] * 3)
    assert report.expected_calibration_error(labels, probabilities) == pytest.approx(0, abs=1e-12)
    assert report.expected_calibration_error(labels, one_hot(labels, 2)) == 0


def test_confusion_matrix_has_true_classes_in_rows():
    matrix = report.confusion_matrix([0, 0, 1, 2, 2], [0, 1, 1, 0, 0], 3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 0]]


def test_metrics_by_hand():
    metrics = report.test_metrics("four images", Y, P)
    low, high = metrics.pop("accuracy_interval")
    assert (low, high) == report.wilson_interval(2, 4)
    assert metrics.pop("loss") == pytest.approx(-math.log(0.5 * 0.35 * 0.8 * 0.2) / 4)
    assert metrics.pop("ece") == report.expected_calibration_error(Y, P)
    assert metrics == {
        "dataset": "four images",
        "n": 4,
        "accuracy": 0.5,
        "per_class_accuracy": [1.0, 0.0, None],
        "confusion_matrix": [[2, 0, 0], [1, 0, 1], [0, 0, 0]],
    }


def test_loss_is_finite_where_float32_underflowed_and_exact_where_it_did_not():
    smallest = np.array([[1, 2.0**-149]], np.float32)
    zero = np.array([[1, 0]], np.float32)
    for probabilities in (smallest, zero):
        loss = report.test_metrics("", [1], probabilities)["loss"]
        assert loss == pytest.approx(149 * math.log(2))


def test_a_perfect_score_has_loss_zero_and_not_minus_zero():
    metrics = report.test_metrics("", [0, 1], one_hot([0, 1], 2))
    assert metrics["accuracy"] == 1.0 and str(metrics["loss"]) == "0.0"


def predictions():
    def of(shape):
        n, k = shape
        row = st.lists(st.floats(0.01, 1), min_size=k, max_size=k)
        labels = st.lists(st.integers(0, k - 1), min_size=n, max_size=n)
        return st.tuples(labels, st.lists(row, min_size=n, max_size=n))

    return st.tuples(st.integers(1, 12), st.integers(2, 5)).flatmap(of)


@given(predictions())
def test_metrics_agree_with_each_other(case):
    labels, weights = case
    weights = np.array(weights)
    metrics = report.test_metrics("x", labels, weights / weights.sum(axis=1, keepdims=True))
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix.sum() == metrics["n"] == len(labels)
    assert np.trace(matrix) / len(labels) == metrics["accuracy"]
    for k, accuracy in enumerate(metrics["per_class_accuracy"]):
        images = labels.count(k)
        assert matrix[k].sum() == images
        assert accuracy == (matrix[k, k] / images if images else None)
    low, high = metrics["accuracy_interval"]
    assert low <= metrics["accuracy"] <= high
    assert 0 <= metrics["ece"] <= 1 and metrics["loss"] >= 0
    assert json.loads(json.dumps(metrics)) == metrics


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0], [0.5, 0.5], r"expected probabilities as floats \(N, K\).* found float64 of shape"),
        ([0], [[1.0]], r"K >= 2; found float64 of shape \(1, 1\)"),
        ([0], [["a", "b"]], r"expected probabilities as floats"),
        ([], np.zeros((0, 3)), r"expected labels as integers of shape \(N,\), N >= 1; found"),
        ([0.0], [[0.5, 0.5]], r"expected labels as integers .* found float64 of shape \(1,\)"),
        ([[0, 1]], [[0.5, 0.5]], r"expected labels as integers .* found int64 of shape \(1, 2\)"),
        ([1, 2], [[0.5, 0.5]] * 2, r"expected labels from 0 to 1; found 2 at row 1"),
        ([1, -1], [[0.5, 0.5]] * 2, r"expected labels from 0 to 1; found -1 at row 1"),
        ([0, 1, 1], [[0.5, 0.5]] * 2, r"expected 3 rows of probabilities.* found 2"),
        ([0, 1], [[0.5, 0.5], [math.nan, 1]], r"finite .*found \[nan, 1.0\] at row 1"),
        ([0, 1], [[0.5, 0.5], [math.inf, -math.inf]], r"finite .*found \[inf, -inf\] at row 1"),
        ([0, 1], [[0.5, 0.5], [1.5, -0.5]], r">= 0 .*found \[1.5, -0.5\] at row 1"),
        ([0, 1], [[0.5, 0.5], [0.5, 0.4]], r"add up to 1 .*found \[0.5, 0.4\] at row 1"),
        ([0], [[0.5, 0.5011]], r"add up to 1"),
    ],
)
def test_bad_predictions_are_refused_in_one_line(labels, probabilities, message):
    for measure in (
        report.expected_calibration_error,
        lambda y, p: report.test_metrics("x", y, p),
        lambda y, p: report.mistakes_png(np.zeros((9, 32, 32, 3), np.uint8), y, p, "ab", "x"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            measure(labels, probabilities)
        assert "\n" not in str(caught.value)


def test_rows_that_add_up_to_1_within_a_thousandth_pass():
    assert report.test_metrics("x", [0], [[0.5, 0.5009]])["accuracy"] == 0


def test_confusion_matrix_refuses_what_does_not_fit():
    with pytest.raises(UserError, match="predicted classes from 0 to 2; found 3 at row 1"):
        report.confusion_matrix([0, 1], [0, 3], 3)
    with pytest.raises(UserError, match="expected 2 predictions, one for each label; found 1"):
        report.confusion_matrix([0, 1], [0], 3)


def test_calibration_error_needs_a_bin():
    with pytest.raises(UserError, match="bins >= 1; found 0"):
        report.expected_calibration_error(Y, P, bins=0)


def test_metrics_lines_are_an_aligned_table():
    metrics = report.test_metrics("four images", Y, P)
    assert report.metrics_lines(metrics, ["airplane", "automobile", "bird"]) == [
        "data set        four images",
        "images          4",
        "top-1 accuracy  50.00 % (95 % interval 15.00 to 85.00 %)",
        f"loss            {metrics['loss']:.4f} (mean negative log likelihood)",
        f"ECE             {metrics['ece']:.4f} (expected calibration error, 15 bins)",
        "",
        "class           images  accuracy",
        "airplane             2  100.00 %",
        "automobile           2    0.00 %",
        "bird                 0         -",
    ]


def test_class_names_must_be_as_many_as_classes():
    metrics = report.test_metrics("x", Y, P)
    images = np.zeros((4, 32, 32, 3), np.uint8)
    for show in (
        lambda: report.metrics_lines(metrics, NAMES),
        lambda: report.confusion_matrix_png(metrics, NAMES),
        lambda: report.mistakes_png(images, Y, P, NAMES, "x"),
    ):
        with pytest.raises(UserError, match="expected 3 class names; found 10"):
            show()


# History


def test_history_has_the_promised_header():
    assert report.history_csv([]) == (
        "epoch,learning_rate,train_loss,train_accuracy,valid_loss,valid_accuracy,"
        "seconds,images_per_second\n"
    )


def test_history_leaves_missing_values_empty():
    text = report.history_csv([epoch(1, valid_loss=None, seconds=np.float32(0.5))])
    assert text.splitlines()[1] == "1,0.1,2.0,,,,0.5,"


values = st.none() | st.floats(allow_nan=False) | st.floats(width=32, allow_nan=False)
entries = st.fixed_dictionaries(
    {"epoch": st.integers(0, 10**6), **dict.fromkeys(report.HISTORY_COLUMNS[1:], values)}
)


@given(history=st.lists(entries, max_size=4))
def test_history_comes_back_exactly(history, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "history.csv"
    path.write_text(report.history_csv(history))
    read = report.read_history(path)
    assert read == {c: [entry[c] for entry in history] for c in report.HISTORY_COLUMNS}
    rows = [dict(zip(read, row, strict=True)) for row in zip(*read.values(), strict=True)]
    assert report.history_csv(rows) == path.read_text()


def test_history_keeps_a_measured_nan_apart_from_a_missing_value(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text(report.history_csv([epoch(1, train_loss=math.nan, valid_loss=None)]))
    read = report.read_history(path)
    assert math.isnan(read["train_loss"][0]) and read["valid_loss"] == [None]


@pytest.mark.parametrize("entry", [{"train_loss": 1.0}, {"epoch": None}, epoch(1, top5=0.9)])
def test_history_csv_refuses_what_it_would_lose(entry):
    with pytest.raises(UserError, match=f"only the columns epoch.*; found {','.join(entry)}"):
        report.history_csv([entry])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected whole lines under epoch,learning_rate"),
        ("epoch,loss\n1,2\n", "expected whole lines under epoch,learning_rate.*found 'epoch,loss"),
        (report.HISTORY_HEADER, "expected whole lines"),
        (report.history_csv([epoch(1)])[:-1], "expected whole lines"),
        (report.HISTORY_HEADER + "\n1,2,3\n", r"expected 8 fields .*found .*'1', '2', '3'"),
        (report.HISTORY_HEADER + "\n,1,1,1,1,1,1,1\n", "expected 8 fields .* first an epoch"),
        (report.HISTORY_HEADER + "\n1,x,,,,,,\n", "could not convert string to float: 'x'"),
        (b"\xff\xfe", "can't decode byte 0xff"),
        (None, "No such file"),
    ],
)
def test_a_broken_history_is_refused_in_one_line(tmp_path, text, message):
    path = tmp_path / "history.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RunError, match=f"cannot read the history .*history.csv: .*{message}") as e:
        report.read_history(path)
    assert "\n" not in str(e.value)


# Pictures


def some_predictions(n=60, seed=0):
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(10), n).astype(np.float32)
    images = random.integers(0, 256, (n, 32, 32, 3), np.uint8)
    return images, random.integers(0, 10, n), probabilities


def test_pictures_are_png_of_sensible_size_and_repeat_byte_for_byte():
    images, labels, probabilities = some_predictions()
    metrics = report.test_metrics("noise", labels, probabilities)
    for draw in (
        lambda: report.confusion_matrix_png(metrics, NAMES),
        lambda: report.mistakes_png(images, labels, probabilities, NAMES, "noise", count=9),
        lambda: report.curves_png([epoch(1), epoch(2)], "two epochs"),
    ):
        data = draw()
        width, height = png_size(data)
        assert 500 <= width <= 2000 and 400 <= height <= 2000
        assert b"Software" not in data and data == draw()


def test_confusion_matrix_picture_names_and_counts_everything(figure_of):
    metrics = report.test_metrics("four $images$", Y, P)
    figure = figure_of(report.confusion_matrix_png, metrics, ["cat", "dog", "ship"])
    axes = figure.axes[0]
    assert figure.get_suptitle() == "four $images$: 4 images, top-1 accuracy 50.00 %"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cat", "dog", "ship"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["cat", "dog", "ship"]
    cells = {t.get_position(): t for t in axes.texts}
    assert len(cells) == 9
    assert cells[2, 1].get_text() == "1"  # predicted "ship" (column), true "dog" (row)
    assert cells[0, 0].get_color() == "white" and cells[2, 2].get_color() == "black"


def test_mistakes_are_shown_surest_first_and_unsmoothed(figure_of):
    images = some_predictions(4)[0]
    figure = figure_of(report.mistakes_png, images, Y, P, ["cat", "dog", "ship"], "four")
    assert figure.get_suptitle() == "four: 2 of 2 mistakes in 4 images, most confident first"
    assert [axes.get_title() for axes in figure.axes] == ["dog → ship, 70.0 %", "dog → cat, 40.0 %"]
    for axes, row in zip(figure.axes, (3, 1), strict=True):
        assert axes.images[0].get_interpolation() == "nearest"
        assert np.array_equal(axes.images[0].get_array(), images[row])


@pytest.mark.parametrize("count", [1, 7, 25])
def test_mistakes_leave_no_empty_frames(figure_of, count):
    images, labels, probabilities = some_predictions(200)
    figure = figure_of(report.mistakes_png, images, labels, probabilities, NAMES, "x", count)
    assert len(figure.axes) == count


def test_no_mistakes_are_said_in_words(figure_of):
    labels = np.arange(10)
    case = (np.zeros((10, 32, 32, 3), np.uint8), labels, one_hot(labels), NAMES, "easy")
    figure = figure_of(report.mistakes_png, *case)
    assert figure.get_suptitle() == "easy: no mistakes in 10 images" and not figure.axes
    png_size(report.mistakes_png(*case))


@pytest.mark.parametrize(
    ("images", "count", "message"),
    [
        (np.zeros((4, 32, 32, 3), np.float32), 25, r"uint8 .* found float32 \(4, 32, 32, 3\)"),
        (np.zeros((4, 3072), np.uint8), 25, r"\(N, 32, 32, 3\); found uint8 \(4, 3072\)"),
        (np.zeros((3, 32, 32, 3), np.uint8), 25, "expected 4 images, .* found 3"),
        (np.zeros((4, 32, 32, 3), np.uint8), 0, "expected count >= 1; found 0"),
    ],
)
def test_mistakes_refuse_other_images(images, count, message):
    with pytest.raises(UserError, match=message):
        report.mistakes_png(images, Y, P, ["cat", "dog", "ship"], "x", count)


def test_curves_show_accuracy_in_percent_and_only_columns_with_values(figure_of):
    history = [epoch(1, train_accuracy=0.25), epoch(2, train_accuracy=0.5, valid_accuracy=0.4)]
    figure = figure_of(report.curves_png, history, "a run")
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
    axes = figure_of(report.curves_png, history, "").axes[0]
    assert (axes.lines[0].get_marker() == "o") == (epochs == 1)
    assert all(tick == round(tick) for tick in axes.get_xticks())
    png_size(report.curves_png(history, ""))


def test_curves_leave_out_a_diverged_loss(figure_of):
    history = [epoch(1), epoch(2, train_loss=math.inf), epoch(3, train_loss=math.nan)]
    assert labelled_lines(figure_of(report.curves_png, history, "").axes[0]) == {"train": [2.0]}
    png_size(report.curves_png([{"epoch": 1}], "nothing measured"))


def test_curves_need_an_epoch():
    with pytest.raises(UserError, match="at least one epoch; found none"):
        report.curves_png([], "")


def test_importing_report_is_cheap_and_drawing_leaves_no_global_state():
    code = (
        "import sys; sys.path.insert(0, '..')\n"
        "from runs import metrics as Report\n"
        "assert not {'matplotlib', 'tensorflow'} & set(sys.modules)\n"
        "Report.curves_png([{'epoch': 1}], 'x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    folder = Path(report.__file__).parent
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, timeout=120)


def test_the_digest_of_a_history_leaves_out_the_times():
    row = {"epoch": 1, "train_loss": 0.5, "seconds": 1.0, "images_per_second": 9.0}
    digest = report.history_digest([row])
    assert report.history_digest([{**row, "seconds": 2.0, "images_per_second": 4.5}]) == digest
    assert report.history_digest([{**row, "train_loss": 0.5000000001}]) != digest
