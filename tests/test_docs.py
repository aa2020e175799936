"""README and docs: what they say of the program is what the program says."""

import importlib
import json
import re
import shlex
from pathlib import Path

import pytest

import Configure
import main
import throughput
from machine.errors import EXIT_CODES
from main import SAVED_MODELS
from runs.metrics import metrics_lines
from runs.record import read_record
from sources.cifar import CIFAR10
from study import tables
from study.page import markdown
from study.write import CAPTIONS
from verbs.compare import compare

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    *(ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))),
    *(*sorted((ROOT / "docs").glob("*/README.md")), *sorted(ROOT.glob("benchmarks/results/*.md"))),
]
RESULTS = {path.parent.name for path in (ROOT / "docs").glob("*/results.json")}
VERBS = [path.stem for path in (ROOT / "code" / "verbs").glob("[a-z]*.py")]


def test_the_exit_codes_are_those_of_the_program():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", text, re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES


def test_the_readme_shows_what_test_prints():
    measured = json.loads((SAVED_MODELS / "fast" / "test_metrics.json").read_text())
    lines = metrics_lines(measured, CIFAR10.class_names)
    assert "```\n" + "\n".join(lines[: lines.index("")]) + "\n```" in PAGES[0].read_text()


def test_the_readme_has_the_accuracies_of_the_records():
    def rows(name):
        return json.loads((ROOT / "docs" / name / "results.json").read_text())["rows"]

    text = " ".join(PAGES[0].read_text().split())
    fast, (honest, leak) = rows("fast")[0], rows("leak")
    *first, last = (f"{100 * run['accuracy']:.2f}" for run in fast["runs"])
    own = {
        name: json.loads((SAVED_MODELS / "resnet20" / f"{name}_metrics.json").read_text())
        for name in ("test", "train")
    }
    test, train = (f"{100 * own[name]['accuracy']:.2f} %" for name in ("test", "train"))
    for said in (
        f"**{100 * fast['accuracy']:.2f} %**, the mean of {', '.join(first)} and {last} %",
        f"{test} on the test images, but {train} on its training",
        f"A run of 60 epochs had {100 * honest['accuracy']:.2f} % on the test images",
        f"{100 * leak['accuracy']:.2f} % on those",
    ):
        assert said in text


@pytest.mark.parametrize("name", ["resnet20", "best20", "wide"])
def test_the_readme_has_the_row_of_a_preset_with_one_run(name):
    folder = SAVED_MODELS / name
    record = read_record(folder)
    low, high = json.loads((folder / "test_metrics.json").read_text())["accuracy_interval"]
    plain, _, both = accuracies(folder, "test").split(" | ")
    assert (
        f"| `{name}` | **{plain}** (95 % interval {100 * low:.2f} to {100 * high:.2f} %) | {both} "
        f"| {record['parameters']:,} | {record['training_configs']['epochs']} "
        f"| {record['minutes']:.0f} on "
    ) in PAGES[0].read_text()


def accuracies(folder, split):
    """What was measured of a run in percent, as a table says it: as it is, with flips, and shifts.

    Of the validation images as they are the record tells.
    """
    found = [read_record(folder)["last_epoch"]["valid_accuracy"]] * (split == "valid")
    for way in (*[""] * (split == "test"), "_flip", "_flip_shift"):
        path = folder / f"{split}_metrics{way}.json"
        found += [json.loads(path.read_text())["accuracy"]] if path.exists() else []
    return " | ".join(f"{100 * accuracy:.2f} %" for accuracy in found)


def test_readme_and_recipe_have_the_accuracies_with_flips_and_shifts():
    folders = [SAVED_MODELS / "fast", *(ROOT / "docs" / "fast" / f"fast-{seed}" for seed in (1, 2))]
    recipe, both = (ROOT / "docs" / "recipe.md").read_text(), []
    for seed, folder in enumerate(folders):
        assert f" | {seed} | {accuracies(folder, 'valid')} |" in recipe
        said = accuracies(folder, "test")
        assert f" | {seed} | {said} |" in recipe
        both.append(float(said.split()[-2]))
    each, readme = ", ".join(f"{accuracy:.2f}" for accuracy in both), PAGES[0].read_text()
    assert f"| {sum(both) / 3:.2f} % ({each}) |" in readme
    for name in ("best20", "wide"):
        as_is, flipped, shifted = accuracies(SAVED_MODELS / name, "test").split(" | ")
        said = f"{as_is} as they are, {flipped} with flips, and {shifted} with flips and shifts."
        assert said in " ".join(recipe.split())


def test_the_page_of_the_benchmark_says_what_was_measured():
    results = json.loads((ROOT / "benchmarks" / "results" / "throughput.json").read_text())
    page = (ROOT / "benchmarks" / "results" / "throughput.md").read_text()
    assert page.rstrip() == "\n".join(throughput.report(results)).rstrip()
    speed = throughput.median(results["training 32"]["float32"][throughput.KERAS])
    assert f"| {200 * 50_000 / speed / 60:,.0f} on the Zen 1 (calculated)" in PAGES[0].read_text()


def commands(page):
    """The command lines of ``main.py`` in a page, in blocks and in the text."""
    text = page.read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`]+)`", re.sub(r"^```\n.*?^```", "", text, flags=re.M | re.S))
    with_flags = rf"^((?:{'|'.join(VERBS)}) [^;&|#]*--[^;&|#]*)"
    for line in lines:
        match = re.search(rf"\bmain\.py +([a-z]+\b[^;&|#]*)|{with_flags}", " ".join(line.split()))
        if match:
            yield (match[1] or match[2]).replace("...", "").strip()


def test_the_commands_of_the_readme_are_found():
    assert len(list(commands(PAGES[0]))) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_of_the_program(page, monkeypatch, capsys):
    given = {}
    for verb in VERBS:
        module = importlib.import_module(f"verbs.{verb}")
        monkeypatch.setattr(module, verb, lambda verb=verb, **values: given.update({verb: values}))
    for command in commands(page):
        words = shlex.split(re.sub(r"\bNAME\b", "tables", re.sub(r"\bN\b", "2", command)))
        given.clear()
        assert main.main(words) == 0, (command, capsys.readouterr().err)
        if "train" in given:
            values = given["train"]
            _, training = Configure.configure(values["preset"], values["overrides"])
            assert Configure.doubts(values["overrides"], training) == [], command


def test_every_link_leads_somewhere():
    links = [(p, link) for p in PAGES for link in re.findall(r"\]\(([^)#]+)\)", p.read_text())]
    assert len(links) > 8
    for page, link in links:
        assert "://" in link or (page.parent / link).exists(), (page.name, link)


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_a_page_of_runs_says_what_its_results_say(name):
    folder = ROOT / "docs" / name
    pictures = {file: text for file, text in CAPTIONS.items() if (folder / file).exists()}
    results = json.loads((folder / "results.json").read_text())
    assert (folder / "README.md").read_text() == markdown(results, pictures)


@pytest.mark.parametrize("name", sorted(RESULTS & Configure.STUDIES.keys()))
def test_the_results_of_a_study_are_those_of_its_runs(name):
    folder, study = ROOT / "docs" / name, Configure.STUDIES[name]
    results = json.loads((folder / "results.json").read_text())
    runs = {
        row.name: [
            tables.read_run(path.parent) for path in sorted(folder.glob(f"{row.name}-*/run.json"))
        ]
        for row in study.rows
    }
    found = tables.tabulate(name, study, runs, results["expected"])
    assert {**json.loads(json.dumps(found)), "failed": {}} == results


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "trials").glob("*/run.json")), ids=lambda path: path.parent.name
)
def test_the_recipe_says_what_a_trial_found(path, trained_by):
    record = read_record(path.parent)
    found = []
    for line in (ROOT / "docs" / "recipe.md").read_text().splitlines():
        if match := re.match(r"\|.*`python main\.py (train .*)` \|$", line):
            given = trained_by(match[1])
            model, training = Configure.configure(given["preset"], given["overrides"])
            model["precision"] = record["model_configs"]["precision"]  # as each processor has it
            if (model, training) == (record["model_configs"], record["training_configs"]):
                found.append(line)
    assert len(found) == 1
    cells = [cell.strip() for cell in found[0].split("|")]
    assert " | ".join(cell for cell in cells if cell[-2:] == " %") == accuracies(
        path.parent, "valid"
    )


def test_the_results_of_a_comparison_are_those_of_its_runs(tmp_path):
    folder = ROOT / "docs" / "fast"
    runs = [SAVED_MODELS / "fast", *(path.parent for path in sorted(folder.glob("*/run.json")))]
    # Whatever a person has measured besides.
    for run in runs:
        (tmp_path / run.name).mkdir()
        for name in ("run.json", "history.csv", "test_metrics.json"):
            (tmp_path / run.name / name).write_bytes((run / name).read_bytes())
    compare(runs=[tmp_path / run.name for run in runs], output=tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == json.loads((folder / "results.json").read_text())
