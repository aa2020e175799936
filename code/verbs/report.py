"""Write one HTML page of a finished run, or of a study's folder, that needs no other file."""

from __future__ import annotations

import base64
import shlex
from html import escape
from pathlib import Path
from string import Template

import Configure
from machine import files
from machine.errors import RunError
from runs import record as records
from runs.folder import FIRST_PICTURES
from runs.metrics import accuracy_text, describe_views, read_test_metrics

PICTURES = {
    "curves.png": "Loss, accuracy and learning rate over the epochs",
    "confusion_matrix.png": "Confusion matrix: rows are the true classes",
    "mistakes.png": "The most confident mistakes",
    "classes.png": "Training images of each class",
    "augmented_batch.png": "A batch as the network sees it",
}
# The policy makes sure that the page asks no other place for anything.
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0; --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171b; --ink: #e6e9ec; --soft: #9aa4ae; --line: #363c44; --mark: #56b4e9; }
}
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); }
p, figcaption { color: var(--soft); }
pre { white-space: pre-wrap; border: 1px solid var(--line); border-radius: 4px; padding: .6rem; }
code, pre { font: .85rem/1.4 ui-monospace, monospace; }
figure { margin: 1rem 0; overflow-x: auto; break-inside: avoid; }
img { max-width: 100%; height: auto; border-radius: 4px; }
svg { width: 100%; max-width: 24rem; height: auto; }
table { display: block; overflow-x: auto; border-collapse: collapse;
  font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: normal; overflow-wrap: anywhere; }
thead th, .numbers td { overflow-wrap: normal; }
thead th { color: var(--soft); }
.numbers td { text-align: right; }
.numbers thead th + th { text-align: right; }
@media screen and (max-width: 40rem) {
  img { max-width: none; width: 40rem; } .numbers { font-size: .8rem; }
  .numbers td, .numbers th { padding-right: .5rem; } }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } }
</style>
</head>
<body>
$body
</body>
</html>
""")


def report(*, save_dir: Path, output: Path | None = None) -> None:
    """Write report.html.

    Args:
        save_dir: folder of a finished run; or one with a README.md and pictures, of a study.
        output: the page; None for report.html in that folder.

    Raises:
        RunError: the folder has neither, or what it has is damaged.
        StorageError: the page cannot be written.
    """
    is_run = (save_dir / records.RECORD_FILE).exists() or not (save_dir / "README.md").exists()
    title, body = _run_page(save_dir) if is_run else _study_page(save_dir)
    output = output or save_dir / "report.html"
    page = PAGE.substitute(title=escape(title), body=f"<h1>{escape(title)}</h1>\n{body}")
    files.write_bytes(output, page.encode())
    print(f"report: {output}")


def _run_page(folder: Path) -> tuple[str, str]:
    record = records.read_record(folder)
    configs = {**record["model_configs"], **record["training_configs"]}
    last, metrics = record["last_epoch"], read_test_metrics(folder, record)
    parts = [
        f"<p>{escape(_summary(record, metrics))}</p>",
        _section("Command", _code(_command(record))),
        _section("Training", _picture(folder / "curves.png"), _table(last)),
    ]
    if metrics:
        name = f"Test on {metrics['n']:,} images"
        classes = _class_table(metrics, record["class_names"])
        parts.append(_section(name, _picture(folder / "confusion_matrix.png"), classes))
        if metrics.get("confidence_bins"):
            parts.append(_section("Reliability", _reliability(metrics)))
        parts.append(_section("Mistakes", _picture(folder / "mistakes.png")))
    digests = {f"{name} data": digest for name, digest in record["data_digests"].items()}
    digests |= {key: value for key, value in record.items() if key.endswith("sha256")}
    digests |= {"initial weights": record["init_from"]} if "init_from" in record else {}
    machine = {**record["versions"], **record["hardware"], "precision": record["precision"]}
    machine["changes on the way"] = record["machine_changes"]
    pictures = (_picture(folder / name) for name in FIRST_PICTURES)
    parts += [
        _section("Data", *pictures),
        _section("Configuration", _table(configs)),
        _section("Digests (SHA-256)", _table(digests)),
        _section("Versions and machine", _table(machine)),
    ]
    return f"{record['network']} on {record['dataset']}", "\n".join(parts)


def _study_page(folder: Path) -> tuple[str, str]:
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise RunError(f"{folder / 'README.md'}: cannot be read: {error}") from error
    pictures = "".join(_picture(path) for path in sorted(folder.glob("*.png")))
    return f"Study {folder.name}", _code(text) + pictures


def _summary(record: dict, metrics: dict | None) -> str:
    epochs = record["training_configs"]["epochs"]
    line = (
        f"{record['parameters']:,} parameters, trained for {epochs} epoch{'s' * (epochs != 1)} in "
        f"{record['minutes']:.1f} minutes, preset {record['preset']}."
    )
    if record.get("seen_test_images"):
        line += " It was trained on the test images too: its results say nothing of other images."
    if not metrics:
        return f"{line} Not tested yet: python main.py test does."
    return (
        f"{line} Top-1 accuracy on the test images{describe_views(metrics)}: "
        f"{accuracy_text(metrics)}, loss {metrics['loss']:.4f}, expected calibration error "
        f"{metrics['ece']:.4f}."
    )


def _command(record: dict) -> str:
    """What trains this again: the preset and all that differs from it today."""
    preset = record["preset"] if record["preset"] in Configure.PRESETS else "resnet20"
    configs = {**record["model_configs"], **record["training_configs"]}
    defaults = Configure.configure(preset, {})
    usual = {**defaults[0], **defaults[1]}
    changed = {name: value for name, value in configs.items() if usual.get(name) != value}
    verb = ["train", "--preset", preset, "--save-dir=RUN"]
    if records.trained_on_test(record):  # no flag of train asks for that
        verb = ["study", "leak", "--only", "leak", "--save-dir=STUDY"]
    words = ["python", "main.py", *verb, *Configure.flags(changed)]
    words += ["--data-dir=DIR"] * (record["dataset"] == "folder")
    if sha := record.get("init_from"):
        words.append(f"--init-from=RUN of weights {sha[:12]}")
    return shlex.join(words)


def _class_table(metrics: dict, class_names: list[str]) -> str:
    """Precision, recall and F1 of each class, in percent."""
    matrix = metrics["confusion_matrix"]
    rows = []
    for label, name in enumerate(class_names):
        correct, true = matrix[label][label], sum(matrix[label])
        predicted = sum(row[label] for row in matrix)
        shares = ((correct, predicted), (correct, true), (2 * correct, predicted + true))
        values = [f"{100 * part / whole:.2f}" if whole else "-" for part, whole in shares]
        cells = "".join(f"<td>{value}</td>" for value in (true, *values))
        rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    head = "".join(
        f"<th>{name}</th>" for name in ("class", "images", "precision, %", "recall, %", "F1, %")
    )
    body = "\n".join(rows)
    return f'<table class="numbers"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'


def _reliability(metrics: dict) -> str:
    """Accuracy over confidence as a picture; a perfectly calibrated network is on the diagonal."""
    bins, bars = metrics["confidence_bins"], []
    width = 100 / len(bins)
    for number, (images, confidence, accuracy) in enumerate(bins):
        if images:
            text = (
                f"{images:,} images with mean confidence {100 * confidence:.1f} %: "
                f"{100 * accuracy:.1f} % correct"
            )
            bars.append(
                f'<rect x="{number * width + 0.5:.2f}" y="{100 - 100 * accuracy:.2f}" '
                f'width="{width - 1:.2f}" height="{100 * accuracy:.2f}" fill="var(--mark)">'
                f"<title>{escape(text)}</title></rect>"
            )
    axis = 'font-size="5" fill="currentColor"'
    return (
        '<figure><svg viewBox="-12 -4 118 120" role="img" aria-label="Reliability diagram">'
        '<rect width="100" height="100" fill="none" stroke="var(--line)"/>'
        f'{"".join(bars)}<path d="M0 100 L100 0" stroke="currentColor" stroke-dasharray="2 2"/>'
        f'<text x="50" y="113" text-anchor="middle" {axis}>confidence, %</text>'
        f'<text transform="translate(-8 50) rotate(-90)" text-anchor="middle" {axis}>'
        f'accuracy, %</text><text y="106" {axis}>0</text>'
        f'<text x="100" y="106" text-anchor="end" {axis}>100</text></svg>'
        "<figcaption>Accuracy of the images in each range of confidence; the dashed line is a "
        "perfectly calibrated network</figcaption></figure>"
    )


def _section(name: str, *parts: str) -> str:
    inside = "\n".join(part for part in parts if part)
    return f"<section><h2>{escape(name)}</h2>\n{inside}\n</section>" if inside else ""


def _code(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"


def _table(values: dict) -> str:
    rows = [
        f"<tr><th>{escape(name)}</th><td>{escape(_words(value))}</td></tr>"
        for name, value in values.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _words(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    if isinstance(value, list):
        return "; ".join(map(_words, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value)


def _picture(path: Path) -> str:
    """An image and what it shows; nothing where there is no such file."""
    if not path.is_file():
        return ""
    name = escape(PICTURES.get(path.name, path.stem.replace("_", " ")))
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{name}" src="data:image/png;base64,{data}">'
        f"<figcaption>{name}</figcaption></figure>"
    )
