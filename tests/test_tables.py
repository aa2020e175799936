"""study/: the arithmetic of a table, and a page whose numbers are its own."""

import itertools
import json
import re

import numpy as np
import pytest
from scipy import stats
from study_child import N, write_run

import Configure
from machine.errors import RunError
from runs.metrics import measure
from study import page, plots, report, tables
from verbs.compare import compare

STUDY = Configure.Study(
    "A study.",
    (
        Configure.Row("plain", "without", reported=88.21),
        Configure.Row("mixed", "with", {}, "plain", "does it help?", 89.54, "it helps"),
        Configure.Row("other", "alone", {}, "plain", "is it worse?", lower=True),
    ),
    preset="quickstart",
    epochs=200,
)
CORRECT = {"plain": [150, 152, 149], "mixed": [155, 160, 152], "other": [140]}


def configs(**changes):
    return Configure.configure("quickstart", changes)


def save(folder, correct, seed=0, **changes):
    names = {"seen_test_images", *(name for name in changes if "__" in name)}
    record = {name: value for name, value in changes.items() if name in names}
    values = {name: value for name, value in changes.items() if name not in names}
    write_run(folder, configs(seed=seed, **values), correct, **record)
    return folder


@pytest.fixture
def results(tmp_path):
    runs = {
        name: [
            tables.read_run(save(tmp_path / f"{name}-{seed}", correct, seed, epochs=15))
            for seed, correct in enumerate(values)
        ]
        for name, values in CORRECT.items()
    }
    return json.loads(json.dumps(tables.tabulate("tables", STUDY, runs, 9)))


def test_quantiles_of_t():
    expected = stats.t.ppf(0.975, np.arange(1, len(tables.T95) + 1))
    assert len(tables.T95) == 30
    np.testing.assert_allclose(tables.T95, expected, atol=1e-6)


def test_paired_interval():
    # By hand: mean 2, standard deviation 1, half width 4.302653 / sqrt(3).
    expected = (2, 2 - 2.484138, 2 + 2.484138)
    assert tables.paired_interval([1.0, 2.0, 3.0]) == pytest.approx(expected, abs=1e-6)
    a, b = np.random.default_rng(0).normal(size=(2, 7))
    mean, *interval = tables.paired_interval(list(a - b))
    peers = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (mean, *interval) == pytest.approx((np.mean(a - b), *peers), abs=1e-6)


def test_interval_of_one_seed():
    # Newcombe 1998, table II, example (a), method 10.
    found = tables.newcombe_interval(56, 70, 48, 80)
    assert found == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_a_row_is_the_mean_over_its_seeds(results):
    plain, mixed, other = results["rows"]
    fractions = np.array(CORRECT["plain"]) / N
    assert [run["accuracy"] for run in plain["runs"]] == list(fractions)
    assert plain["accuracy"] == pytest.approx(fractions.mean())
    assert plain["deviation"] == pytest.approx(np.std(fractions, ddof=1))
    assert other["deviation"] is None
    low, high = stats.binomtest(140, N).proportion_ci(method="wilson")
    assert other["runs"][0]["interval"] == pytest.approx([low, high])
    assert (results["finished"], results["expected"]) == (7, 9)
    # +5, +8 and +3 of 200 images.
    difference = mixed["difference"]
    assert difference["mean"] == pytest.approx(0.16 / 6)
    peers = stats.ttest_1samp([0.025, 0.04, 0.015], 0).confidence_interval(0.95)
    assert difference["interval"] == pytest.approx(list(peers))
    assert (difference["seeds"], difference["epochs"]) == (3, 15)


@pytest.mark.parametrize(
    "correct, lower, answer",
    [((40, 41), False, "no"), ((40, 41), True, "yes"), ((190, 191), False, "yes")],
)
def test_an_interval_without_zero_answers(tmp_path, correct, lower, answer):
    rows = (STUDY.rows[0], STUDY.rows[1]._replace(lower=lower))
    runs = {
        name: [
            tables.read_run(save(tmp_path / f"{name}-{seed}", values[seed], seed))
            for seed in range(2)
        ]
        for name, values in {"plain": (100, 102), "mixed": correct}.items()
    }
    found = tables.tabulate("x", STUDY._replace(rows=rows), runs, 4)["rows"][1]["difference"]
    assert found["answer"] == answer


def test_matrices_are_summed_over_seeds(tmp_path):
    generator = np.random.default_rng(0)
    truth, guesses, runs = [], [], []
    for seed in range(3):
        y, p = generator.integers(0, 3, 50), generator.dirichlet(np.ones(3), 50)
        run = tables.read_run(save(tmp_path / str(seed), 150, seed))
        run["test"].update(measure(y, p))
        runs.append(run)
        truth.append(y)
        guesses.append(p.argmax(1))
    row = tables.tabulate("x", STUDY, {"plain": runs}, 3)["rows"][0]
    truth, guesses = np.concatenate(truth), np.concatenate(guesses)
    counts, _, _ = np.histogram2d(truth, guesses, bins=3)
    assert row["confusion_matrix"] == counts.tolist()
    assert row["accuracy"] == pytest.approx(np.mean(truth == guesses))


def leaves(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return list(itertools.chain.from_iterable(map(leaves, value)))
    return [value] if isinstance(value, (int, float)) else []


def test_every_number_of_the_page_is_one_of_the_results(results):
    text = page.markdown(results, {})
    numbers = re.findall(r"(?<![\w.])[+-]?\d+\.\d+(?![\w.])", text)
    known = {form.format(scale * x) for x in leaves(results) for scale in (1, 100)
             for form in ("{:.2f}", "{:+.2f}", "{:.1f}")}  # fmt: skip
    assert len(numbers) > 20
    assert [n for n in numbers if n not in known] == []
    assert "Partial: 7 of 9 runs" in text
    assert "cannot be told** from 3 seeds of 15 epochs" in text


def test_a_row_without_runs_is_left_out(results):
    assert "| mixed: with |" in page.markdown(results, {})
    results["rows"][1].update(runs=[], difference=None)
    assert "mixed" not in page.markdown(results, {})


def test_the_page_says_each_number_in_its_place(results):
    results["rows"][0].update(memorized=0.25)
    results["dataset"] = "cifar10"
    text = page.markdown(results, {})
    header, _, plain, mixed, _ = re.findall(r"^\|.*\|$", text, re.M)[:5]
    assert header.split("|")[1:-1] == [
        *(" configuration ", " report ", " ours ", " each seed ", " difference "),
        *(" own training images ", " false labels memorized "),
    ]
    # 150, 152 and 149 of 200 test images, and 10 of each training images less.
    assert plain == (
        "| plain: without | 88.21 | 75.17 ± 0.76 | 75.00, 76.00, 74.50 | – | 70.17 | 25.00 |"
    )
    assert mixed.startswith("| mixed: with | 89.54 | 77.83 ± 2.02 | 77.50, 80.00, 76.00 | +2.67 (")


def test_the_page_says_once_what_holds_for_all_and_else_which_seed_ran_where(results):
    runs = results["rows"][0]["runs"]
    assert "| a, 2 cores |" not in page.markdown(results, {})
    assert "\n* processor: a, 2 cores\n" in page.markdown(results, {})
    runs[1]["processor"] = "b"
    assert "| a, 2 cores (seed 0, 2); b, 2 cores (seed 1) |" in page.markdown(results, {})


def test_the_page_names_values_that_are_not_those_of_the_study(tmp_path):
    values = {**dict(zip(Configure.KEYS, Configure.configure("resnet20", {}), strict=True))}
    changes = {"model_configs__depth": 8, "dataset": "cifar100"}
    for name, record in (("same", {}), ("other", changes)):
        write_run(tmp_path / name, tuple(values.values()), 150, **{"dataset": "cifar10", **record})
        runs = {"plain": [tables.read_run(tmp_path / name)]}
        study = STUDY._replace(preset="resnet20")
        text = page.markdown(tables.tabulate("x", study, runs, 1), {})
        assert ("study's own: depth 8 for 20.**" in text) == (name == "other")
        assert ("| 88.21 |" in text) == (name == "same")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_time_flip": True}, "look at an image in one way"),
        ({"weights_sha256": "other"}, "metrics of other weights"),
        ({"accuracy": "0.5"}, "expected what python main.py test writes"),
        ({"confusion_matrix": [[1]]}, "a confusion matrix of 1 classes"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(tmp_path, changes, said):
    runs = [save(tmp_path / name, 150, seed) for seed, name in enumerate("ab")]
    path = runs[1] / "test_metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(RunError, match=said):
        compare(runs=runs, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_how_it_was_measured_is_said(tmp_path, capsys):
    folder = save(tmp_path / "a", 150)
    path, said = folder / "test_metrics.json", []
    for flip in (False, True):
        path.write_text(json.dumps({**json.loads(path.read_text()), "test_time_flip": flip}))
        compare(runs=[folder], output=tmp_path / "out")
        said.append((tmp_path / "out" / "README.md").read_text() + capsys.readouterr().out)
    for text, flip in zip(said, (False, True), strict=True):
        assert text.count("each also with its mirror image") == 2 * flip


def test_training_accuracy_of_other_weights_is_none(tmp_path):
    folder = save(tmp_path / "a", 150)
    path = folder / "train_metrics.json"
    for sha256, accuracy in (("d", 0.7), ("other", None)):
        path.write_text(json.dumps({**json.loads(path.read_text()), "weights_sha256": sha256}))
        train = tables.read_run(folder)["train"]
        assert (train and train["accuracy"]) == accuracy


def test_two_runs_of_one_seed_are_not_two_seeds(tmp_path):
    runs = [save(tmp_path / name, 150, hardware__cores=cores) for cores, name in enumerate("ab")]
    with pytest.raises(RunError, match="found a and b of one configuration and seed 0"):
        compare(runs=runs, output=tmp_path / "out")
    other = save(tmp_path / "c", 160, precision__used="bfloat16")
    compare(runs=[runs[0], other], output=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["text"] for row in found["rows"]] == ["precision float32", "precision bfloat16"]


def test_the_matrices_of_the_report():
    for figure, diagonal in zip(report.FIGURES, (6792, 9684, 9747), strict=True):
        matrix = np.array(figure.matrix, float)
        assert matrix.trace() == diagonal
        sums = np.nansum(matrix, axis=0)
        missing = np.isnan(matrix).any(axis=0)
        assert (sums[~missing] == 1000).all() and (1000 - sums[missing] == 2).all()


def test_curves_are_the_means_over_the_seeds_and_a_leak_is_named(results, figure_of):
    row = results["rows"][0]
    for seed, run in enumerate(row["runs"]):
        run["history"] = {"train_loss": [2.0 + seed, 1.0], "valid_accuracy": [0.5, None]}
    row["leak"] = True
    figure = figure_of(plots.curves_png, results)
    assert "1 row TRAINED ON THE TEST IMAGES" in figure.get_suptitle()
    loss, accuracy = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [3.0, 1.0]
    assert accuracy.lines[0].get_ydata()[0] == 50
    assert loss.lines[0].get_label() == "plain: without"


def test_more_rows_than_colours_get_more_panels(results, figure_of):
    row = results["rows"][0]
    results["rows"] = [{**row, "name": f"row{number}"} for number in range(9)]
    figure = figure_of(plots.curves_png, results)
    assert [len(axes.lines) for axes in figure.axes] == [5, 5, 4, 4]
    assert figure.axes[3].lines[3].get_label() == "row8: without"
    upper, lower = figure.axes[1::2]
    assert upper.get_ylim() == lower.get_ylim() and upper.get_xlim() == lower.get_xlim()


def test_matrices_have_the_true_class_in_their_columns(results, figure_of):
    assert plots.matrices_png(results) is None  # no row of the report's figures
    row = results["rows"][0]
    row.update(name="adam", confusion_matrix=[[291, 3], [6, 300]])  # of 3 seeds, true in rows
    results["dataset"] = "shapes"
    assert plots.matrices_png(results) is None  # its figures are of other images
    results["dataset"] = "cifar10"
    figure = figure_of(plots.matrices_png, results)
    above, below = figure.axes[:2]
    assert "report, figure 5, adam: diagonal 97.47 %" in above.get_title()
    assert "diagonal 98.50 %" in below.get_title()
    cells = {text.get_position()[::-1]: text.get_text() for text in below.texts}
    assert (cells[0, 1], cells[1, 0]) == ("2", "1")
    assert {text.get_position()[::-1]: text.get_text() for text in above.texts}[2, 0] == "12"


def test_a_leaked_run_is_named_whatever_it_is_compared_with(tmp_path):
    save(tmp_path / "a", 150, seen_test_images=True)
    compare(runs=[tmp_path / "a"], output=tmp_path / "out")
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| a: **as configured (TRAINED ON THE TEST IMAGES)** |" in page


def test_compare_groups_runs_that_differ_in_their_seed(tmp_path):
    runs = [save(tmp_path / f"a{seed}", 150 + seed, seed) for seed in range(2)]
    runs.append(save(tmp_path / "b", 160, 0, mixup_alpha=0.3))
    compare(runs=runs, output=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(row["name"], len(row["runs"])) for row in found["rows"]] == [("a0", 2), ("b", 1)]
    assert found["rows"][1]["text"] == "mixup_alpha 0.3"
    assert found["rows"][1]["difference"]["mean"] == pytest.approx(10 / N)
    assert (tmp_path / "out" / "README.md").read_text().startswith("# Study: compare")


@pytest.mark.parametrize(("changes", "rows"), [({}, [2]), ({"mixup_alpha": 0.3}, [1, 1])])
def test_compare_tells_runs_of_one_name_apart(tmp_path, changes, rows):
    runs = [save(tmp_path / "a" / "run", 150, 0), save(tmp_path / "b" / "run", 160, 1, **changes)]
    compare(runs=runs, output=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [len(row["runs"]) for row in found["rows"]] == rows
    assert found["finished"] == found["expected"] == 2


@pytest.mark.parametrize("results", [None, "[]", '{"mine": 1}', '{"study": "tables"}'])
def test_compare_does_not_write_among_files_of_something_else(tmp_path, results):
    (tmp_path / "README.md").write_text("mine")
    if results:
        (tmp_path / "results.json").write_text(results)
    with pytest.raises(RunError, match="expected a new folder"):
        compare(runs=[], output=tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_compare_refuses_runs_on_different_data(tmp_path):
    runs = [save(tmp_path / "a", 150), save(tmp_path / "b", 150, 1, data_digests__test="other")]
    with pytest.raises(RunError, match="same test images"):
        compare(runs=runs, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_compare_wants_tested_runs(tmp_path):
    folder = save(tmp_path / "a", 150)
    (folder / "test_metrics.json").unlink()
    with pytest.raises(RunError, match=r"python main\.py test"):
        compare(runs=[folder], output=tmp_path / "out")


def test_a_share_that_one_run_lacks_makes_no_difference():
    row = next(row for row in Configure.STUDIES["noise"].rows if row.measure == "memorized")
    known = {"seed": 0, "epochs": 1, "memorized": 0.5, "false_labels": 10}
    ours, theirs = {"runs": [known]}, {"runs": [{**known, "memorized": None}]}
    assert tables._difference(row, ours, ours)["mean"] == 0
    assert tables._difference(row, ours, theirs) is None
