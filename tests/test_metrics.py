"""runs/metrics.py: what is measured, and how it is written."""

import csv
import io
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from saved import SHIPPED

from runs.metrics import (
    HISTORY_COLUMNS,
    confidence_bins,
    confusion_matrix,
    expected_calibration_error,
    history_csv,
    history_digest,
    measure,
    metrics_file,
    metrics_lines,
    wilson_interval,
)

# Four images of three classes, none of class 2; rows 0 and 2 are right.
Y = np.array([0, 1, 0, 1], np.int32)
P = np.array([[0.5, 0.3, 0.2], [0.4, 0.35, 0.25], [0.8, 0.1, 0.1], [0.1, 0.2, 0.7]], np.float64)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_solves_the_score_equation(case):
    correct, n = case
    p = correct / n
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= p <= high <= 1 and low < high
    for end in (low, high):
        squared = 1.959963984540054**2 * end * (1 - end) / n
        assert (p - end) ** 2 == pytest.approx(squared, rel=1e-6, abs=1e-15)


def test_calibration_error_by_hand():
    # Bin (0, 0.5]: confidences 0.5 and 0.4, accuracy 1/2, gap 0.05.
    # Bin (0.5, 1]: confidences 0.8 and 0.7, accuracy 1/2, gap 0.25.
    assert expected_calibration_error(confidence_bins(Y, P, bins=2)) == pytest.approx(
        (0.05 + 0.25) / 2
    )


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int32, np.uint64])
def test_labels_of_any_integer_type_are_counted(kind):
    y = np.arange(100)
    assert confusion_matrix(y.astype(kind), y, 100).tolist() == np.eye(100).tolist()


def test_the_bins_of_a_reliability_diagram():
    low, high = confidence_bins(Y, P, bins=2)
    rows = [(p.max() > 0.5, p.max(), p.argmax() == y) for y, p in zip(Y, P, strict=True)]
    for found, bin in ((low, False), (high, True)):
        inside = [row[1:] for row in rows if row[0] == bin]
        assert found == pytest.approx([len(inside), *np.mean(inside, axis=0)])
    assert confidence_bins(Y[:1], np.eye(3)[Y[:1]], bins=2)[0] == [0, 0.0, 0.0]


def test_metrics_by_hand():
    metrics = measure(Y, P)
    assert tuple(metrics.pop("accuracy_interval")) == wilson_interval(2, 4)
    assert metrics.pop("loss") == pytest.approx(-math.log(0.5 * 0.35 * 0.8 * 0.2) / 4)
    assert metrics.pop("ece") == expected_calibration_error(confidence_bins(Y, P))
    assert metrics.pop("confidence_bins") == confidence_bins(Y, P)
    assert metrics == {
        "n": 4,
        "accuracy": 0.5,
        "per_class_accuracy": [1.0, 0.0, None],
        "confusion_matrix": [[2, 0, 0], [1, 0, 1], [0, 0, 0]],
    }


def test_loss_is_finite_where_float32_underflowed_and_exact_where_it_did_not():
    smallest = np.array([[1, 2.0**-149]], np.float32)
    zero = np.array([[1, 0]], np.float32)
    for probabilities in (smallest, zero):
        assert measure(np.array([1]), probabilities)["loss"] == pytest.approx(149 * math.log(2))


def test_a_perfect_score_has_loss_zero_and_not_minus_zero():
    metrics = measure(np.array([0, 1]), np.eye(2))
    assert metrics["accuracy"] == 1.0 and str(metrics["loss"]) == "0.0"


def test_metrics_lines_are_an_aligned_table():
    metrics = {"dataset": "four images", **measure(Y, P)}
    assert metrics_lines(metrics, ["airplane", "automobile", "bird"]) == [
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


def test_history_has_the_promised_header_and_leaves_missing_values_empty():
    assert history_csv([{"epoch": 1, "train_loss": 2.0, "valid_loss": None}]) == (
        "epoch,learning_rate,train_loss,train_accuracy,valid_loss,valid_accuracy,"
        "seconds,images_per_second\n1,,2.0,,,,,\n"
    )


values = st.none() | st.floats(allow_nan=False)
entries = st.fixed_dictionaries(
    {"epoch": st.integers(0, 10**6), **dict.fromkeys(HISTORY_COLUMNS[1:], values)}
)


@given(history=st.lists(entries, max_size=4))
def test_history_comes_back_exactly(history):
    rows = csv.DictReader(io.StringIO(history_csv(history)))
    read = [{k: float(text) if text else None for k, text in row.items()} for row in rows]
    assert read == history


def test_a_column_that_would_be_lost_is_refused():
    with pytest.raises(ValueError, match="top5"):
        history_csv([{"epoch": 1, "top5": 0.9}])


def test_the_digest_of_a_history_leaves_out_the_times():
    row = {"epoch": 1, "train_loss": 0.5, "seconds": 1.0, "images_per_second": 9.0}
    digest = history_digest([row])
    assert history_digest([{**row, "seconds": 2.0, "images_per_second": 4.5}]) == digest
    assert history_digest([{**row, "train_loss": 0.5000000001}]) != digest


def test_each_way_of_measuring_has_its_file():
    own = {"test_time_flip": False, "test_time_shift": False}
    plain, flip = {**own, "precision": "float32"}, {"test_time_flip": True}
    names = [
        metrics_file("test", plain, own),
        metrics_file("valid", {**plain, **flip}, own),
        metrics_file("train", {**plain, **flip}, {**own, **flip}),
        metrics_file("test", plain, {**own, **flip}),
        metrics_file("test", {**plain, **flip, "precision": "bfloat16"}, {**own, **flip}),
    ]
    assert names == [
        "test_metrics.json",
        "valid_metrics_flip.json",
        "train_metrics.json",
        "test_metrics_plain.json",
        "test_metrics_flip_bfloat16.json",
    ]


def test_the_shipped_predictions_are_those_that_were_measured():
    from main import SAVED_MODELS

    found = np.load(SAVED_MODELS.parents[1] / "predictions.npy")
    assert found.dtype == np.float32 and found.shape == (10_000, 10)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    measured = json.loads((SAVED_MODELS / "resnet20" / "test_metrics.json").read_text())
    predicted = np.sum(measured["confusion_matrix"], axis=0)
    assert np.bincount(found.argmax(1)).tolist() == predicted.tolist()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_history_has_the_digest_of_its_record(name):
    from main import SAVED_MODELS
    from runs.record import read_record

    folder = SAVED_MODELS / name
    with (folder / "history.csv").open(newline="") as file:
        history = [
            {k: None if text == "" else json.loads(text) for k, text in row.items()}
            for row in csv.DictReader(file)
        ]
    assert history_digest(history) == read_record(folder)["history_sha256"]
