"""main.py report: one page that needs nothing else, whatever the run is called."""

import html.parser
import io
import json
import os
import subprocess

import numpy as np
import pytest
import saved
from PIL import Image
from tiny import images

import main
from runs import metrics, plots
from runs import record as records

NAMES = ("cat", '<script>alert("1")</script>', "a&b $x", "dog's")
BROWSER = os.environ.get("CHROMIUM")


class Page(html.parser.HTMLParser):
    """Tags, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def run(tmp_path):
    """A finished and measured run of four classes, without weights."""
    generator = np.random.default_rng(0)
    x, y = images(40)
    y %= 4
    p = generator.dirichlet(np.ones(4), 40).astype(np.float32)
    p[:20] = np.eye(4, dtype=np.float32)[y[:20]]
    measured = {"dataset": "shapes", **metrics.measure(y, p)}
    record = {**saved.FINISHED, "class_names": list(NAMES), "dataset": "<b>shapes</b>"}
    records.write_record(tmp_path, record)
    (tmp_path / "test_metrics.json").write_text(json.dumps(measured))
    (tmp_path / "mistakes.png").write_bytes(plots.mistakes_png(x, y, p, NAMES, "shapes"))
    (tmp_path / "confusion_matrix.png").write_bytes(plots.confusion_matrix_png(measured, NAMES))
    return tmp_path


def write(folder, capsys):
    """Exit code, page and errors."""
    code = main.main(["report", str(folder)])
    err = capsys.readouterr().err
    return code, Page((folder / "report.html").read_text()) if code == 0 else None, err


def test_a_page_needs_no_network_and_escapes_names(run, capsys):
    code, page, err = write(run, capsys)
    assert code == 0, err
    assert not {"script", "link", "iframe", "b"} & {tag for tag, _ in page.tags}
    sources = [attrs["src"] for tag, attrs in page.tags if tag == "img"]
    assert len(sources) == 2 and all(s.startswith("data:image/png;base64,") for s in sources)
    assert not any("href" in attrs for _, attrs in page.tags)
    assert set(NAMES) <= set(page.text)
    assert any("default-src 'none'" in str(attrs.get("content")) for _, attrs in page.tags)


def test_a_page_has_precision_recall_and_f1(run, capsys):
    matrix = [[3, 1, 0, 0], [1, 1, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0]]
    y = np.repeat(np.arange(4), np.sum(matrix, axis=1))
    predicted = np.concatenate([np.repeat(np.arange(4), row) for row in matrix])
    measured = {"dataset": "shapes", **metrics.measure(y, np.eye(4)[predicted])}
    (run / "test_metrics.json").write_text(json.dumps(measured))
    text = [t for t in write(run, capsys)[1].text if t.strip()]
    rows = {name: text[text.index(name) + 1 :][:4] for name in NAMES}
    assert rows["cat"] == ["4", "75.00", "75.00", "75.00"]
    assert rows[NAMES[1]] == ["2", "25.00", "50.00", "33.33"]
    assert rows["a&b $x"] == ["4", "100.00", "50.00", "66.67"]
    assert rows["dog's"] == ["0", "-", "-", "-"]


def test_a_run_that_was_not_measured_has_a_page_too(run, capsys):
    (run / "test_metrics.json").unlink()
    assert write(run, capsys)[0] == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"confusion_matrix": [[1]]}', "nul\0"])
def test_damaged_metrics_are_one_line(text, run, capsys):
    (run / "test_metrics.json").write_text(text)
    code, _, err = write(run, capsys)
    assert (code, err.count("\n")) == (5, 1)


def test_a_study_is_its_text_and_pictures(tmp_path, capsys):
    (tmp_path / "README.md").write_text("# Table <1>\n")
    Image.new("RGB", (8, 6), "red").save(tmp_path / "figure.png")
    _, page, _ = write(tmp_path, capsys)
    assert "# Table <1>\n" in page.text
    assert [tag for tag, _ in page.tags].count("img") == 1


def test_a_folder_without_a_run_is_one_line(tmp_path, capsys):
    code, _, err = write(tmp_path, capsys)
    assert (code, err.count("\n")) == (5, 1)


def test_the_command_trains_the_same_configuration(run, capsys, trained_by):
    import Configure

    configs = Configure.configure("quickstart", {"width": 3, "flip": False, "l2": 1e-5})
    record = {**saved.FINISHED, "model_configs": configs[0], "training_configs": configs[1]}
    records.write_record(run, {**record, "class_names": list(NAMES)})
    text = "".join(write(run, capsys)[1].text)
    line = next(line for line in text.splitlines() if line.startswith("python main.py"))
    given = trained_by(line.removeprefix("python main.py "))
    assert Configure.configure(given["preset"], given["overrides"]) == configs
    assert given["save_dir"].name == "RUN"


def test_the_command_of_a_leaked_run_is_that_of_its_study(run, capsys):
    record = saved.changed(saved.FINISHED, seen_test_images=True, model_configs__seed=4)
    records.write_record(run, {**record, "class_names": list(NAMES)})
    text = "".join(write(run, capsys)[1].text)
    line = next(line for line in text.splitlines() if line.startswith("python main.py"))
    assert (
        line.startswith("python main.py study leak --only leak --save-dir=STUDY ")
        and "--seed 4" in line
    )
    assert "It was trained on the test images too" in text


@pytest.mark.skipif(BROWSER is None, reason="CHROMIUM does not name a browser")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_all_of_it(width, dark, run, capsys):
    write(run, capsys)
    picture = run / "page.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--window-size={width},3000", f"--screenshot={picture}"]
    command += [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    command += [f"--user-data-dir={run / 'browser'}", (run / "report.html").as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    shown = np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("L"), int)
    assert shown.shape == (3000, width)
    ground = shown[0, 0]
    assert (ground < 60) if dark else (ground > 240)
    # Nothing reaches the right edge, which is what a page too wide for its window does.
    assert (abs(shown[:, -8:] - ground) < 4).all()
    assert shown[:400].std() > 5 and shown[400:1200].std() > 5
