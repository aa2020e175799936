"""Command line: ``python main.py train``, ``python main.py test``, ``python main.py predict``."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import sys
import warnings
from pathlib import Path

import Configure
from machine.console import lasting_streams
from machine.errors import EXIT_CODES, StorageError

CODE = Path(__file__).resolve().parent
SAVED_MODELS = CODE / "saved_models"
INTERRUPTED = 130
OVERRIDES = "overrides"  # the argument of a verb, and what its flags begin with until then
RUN_FOLDER = "folder of the run (default: code/saved_models/PRESET)"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a flag in one line, like every other error."""

    def __init__(self, **options):
        super().__init__(
            **options,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message):
        self.exit(2, f"error: {message}; see python {self.prog} --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: of the command line; None for the process's own.

    Returns:
        The exit code, a key of ``EXIT_CODES``.
    """
    with lasting_streams() as output:
        values = vars(_parser().parse_args(arguments))
        debug, verb = values.pop("debug", False), values.pop("verb")
        if OVERRIDES in values:
            given = [key for key in values if key.startswith(f"{OVERRIDES}.")]
            values[OVERRIDES] = {key.split(".")[1]: values.pop(key) for key in given}
        if "save_dir" in values:
            own = {"study": f"study-{values.get('name')}", "tune": f"{values.get('preset')}-tune"}
            values["save_dir"] = values["save_dir"] or SAVED_MODELS / own.get(
                verb, values.get("preset")
            )
            if OVERRIDES not in values:
                # It has named the folder of a run, whose record says all.
                values.pop("preset", None)
        # Keras imports pyplot: a notebook's or desktop's choice of a window must not matter.
        os.environ["MPLBACKEND"] = "agg"
        try:
            if "save_dir" in values:
                values["save_dir"] = Path(os.path.realpath(values["save_dir"]))
            with warnings.catch_warnings():
                warnings.simplefilter("default", UserWarning)
                warnings.showwarning = lambda message, *_: print(
                    f"warning: {message}", file=sys.stderr
                )
                # Each verb is one function, of the verb's name, in the module of that name.
                getattr(importlib.import_module(f"verbs.{verb}"), verb)(**values)
            output.require_written()
            return 0
        except KeyboardInterrupt:
            return _fail("interrupted", INTERRUPTED)
        except Exception as error:
            if debug:
                raise
            return _fail(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    """One line and the exit code for an error."""
    line = " ".join(str(error).split())
    if type(error).__name__ in ("MemoryError", "ResourceExhaustedError"):  # TensorFlow's, too
        advice = "a training takes less with a lower --batch-size or --width"
        return f"expected more free memory, found too little ({line[:150]}); {advice}", 2
    if hasattr(error, "exit_code"):
        return line, error.exit_code
    if isinstance(error, ValueError):
        return line, 2
    if isinstance(error, ModuleNotFoundError):
        return f"{line}; install it with pip install -r {CODE.parent / 'requirements.txt'}", 2
    if isinstance(error, OSError):
        return line, StorageError.exit_code
    return f"unexpected {type(error).__name__}: {line}; --debug shows where", 1


def _fail(line: str, code: int) -> int:
    print(f"error: {line}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    codes = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    parser = _Parser(
        prog="main.py", description="ResNet v1 on CIFAR-10.", epilog=f"exit codes:\n{codes}"
    )
    verbs = parser.add_subparsers(metavar="verb", required=True, parser_class=_Parser)
    for add_flags, text in (
        (_train, "train the report's final learner, or another preset"),
        (_test, "measure a finished run on the public test images, or on others"),
        (_predict, "write the class probabilities of images to predictions.npy"),
        (_study, "train and test a grid of runs, such as the report's tables"),
        (_compare, "put finished runs beside each other in a table and in curves"),
        (_describe, "print the network's layers and size, and draw it"),
        (_export, "write a finished run's network as a file that other programs read"),
        (_report, "write one HTML page of a finished run or study"),
        (_tune, "search for a better configuration by short trainings"),
    ):
        name = add_flags.__name__.removeprefix("_")
        verb = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        verb.set_defaults(verb=name)
        verb.add_argument("--debug", action="store_true", help="traceback of an error")
        add_flags(verb)
    return parser


def _train(parser) -> None:
    _add_preset(parser, shown=True)
    groups = _add_all_keys(parser, _add_data(parser, RUN_FOLDER))
    add = parser.add_argument_group("output").add_argument
    add("--fresh", action="store_true", help="new start; a run in the folder is moved aside")
    add(
        "--save-minutes",
        type=_minutes,
        metavar="MINUTES",
        help="minutes between saves within an epoch (default: 10); each epoch ends with one",
    )
    add("--tensorboard", action="store_true", help="write logs for TensorBoard, RUN/tensorboard")
    add = groups["training"].add_argument
    add(
        "--strategy",
        choices=Configure.STRATEGIES,
        help="devices that train; auto finds a cluster (TF_CONFIG, Slurm) or several GPUs",
    )
    text = "record of a run, whose configuration takes the place of the preset's"
    add("--config", type=Path, metavar="RUN.JSON", help=text)
    add("--init-from", type=Path, metavar="RUN", help="folder of a finished run to start from")


def _test(parser) -> None:
    _add_preset(parser)
    add = _add_data(parser, RUN_FOLDER).add_argument
    text = "labelled images of your own: .npy, PNG, JPEG, or a folder of pictures"
    add("--input", dest="images", type=Path, metavar="PATH", help=text)
    add("--labels", type=Path, metavar="LABELS.NPY", help="labels of --input, integers 0..K-1")
    text = "images of the run: valid to choose by, train to see how well it knows its own"
    add("--split", choices=Configure.SPLITS, help=f"{text} (default: test)")
    _add_inference(parser)


def _predict(parser) -> None:
    _add_preset(parser)
    parser.set_defaults(default_output=CODE.parent / "predictions.npy")
    add = _add_data(parser, RUN_FOLDER).add_argument
    sources = "images to classify: .npy, PNG, JPEG, or a folder of pictures"
    add("--input", dest="images", type=Path, metavar="PATH", help=sources)
    add("--skip-damaged", action="store_true", help="leave damaged pictures out")
    add(
        "--output",
        type=Path,
        metavar="FILE",
        help="file to write (default: predictions.npy beside code/, or in the run's folder for a "
        "run on another data set than CIFAR-10)",
    )
    _add_inference(parser)


def _study(parser) -> None:
    add = parser.add_argument
    studies = Configure.STUDIES
    text = " ".join(f"{name}: {study.text}" for name, study in studies.items())
    add("name", choices=studies, help=text)
    add("--seeds", type=int, metavar="N", help="runs of each configuration (default: the study's)")
    add("--jobs", type=int, metavar="N", help="runs at a time, each on its own cores or GPU")
    add("--only", metavar="ROW", help="train one run of this configuration, with --seed")
    add("--seed", type=int, metavar="S", help="seed of the run of --only (default: 0)")
    _add_data(parser, "folder of the study (default: code/saved_models/study-NAME)")
    group = parser.add_argument_group("all runs")
    _add_keys(group, "epochs", "depth", "width", "dataset", "valid_size", "batch_size", "precision")


def _compare(parser) -> None:
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="folder of a tested run")
    output = Path("comparison")
    text = f"folder (default: {output}, here)"
    add("--output", type=Path, default=output, metavar="DIR", help=text)


def _describe(parser) -> None:
    _add_preset(parser, shown=True)
    text = "draw it into this file (default: no picture)"
    parser.add_argument("--output", type=Path, metavar="PNG", help=text)
    _add_keys(parser, "depth", "width", "dropout_stack2", "dropout_stack3")


def _export(parser) -> None:
    _add_preset(parser)
    _add_folder(parser, RUN_FOLDER)
    add = parser.add_argument
    formats = ("keras", "savedmodel", "onnx", "litert")
    add("--format", choices=formats, required=True, help="format of the file")
    add("--output", type=Path, metavar="FILE", help="file or folder (default: in the run's folder)")


def _report(parser) -> None:
    _add_preset(parser)
    add = parser.add_argument
    add("save_dir", nargs="?", type=Path, default=None, metavar="RUN", help=RUN_FOLDER)
    add("--output", type=Path, metavar="FILE", help="page to write (default: RUN/report.html)")


def _tune(parser) -> None:
    _add_preset(parser, shown=True)
    data = _add_data(parser, "folder of the search (default: code/saved_models/PRESET-tune)")
    _add_all_keys(parser, data)
    add = parser.add_argument_group("search").add_argument
    text = "trainings in all, of all processes (default: 50); of 10 epochs without --epochs"
    add("--trials", type=int, help=text)
    add("--minutes", type=_minutes, help="begin no training after so long (default: no limit)")
    searched = "\n".join(f"  --{name.replace('_', '-')}" for name in Configure.TUNED)
    parser.epilog = f"searched, unless given or without effect:\n{searched}"


def _add_preset(parser, shown: bool = False) -> None:
    presets = tuple(Configure.PRESETS)
    more = ", whose values are shown here" * shown
    text = f"configuration and name of a run (default: {presets[0]}{more})"
    parser.add_argument("--preset", choices=presets, default=presets[0], help=text)


def _add_folder(parser, text: str) -> None:
    parser.add_argument("--save-dir", type=Path, default=None, metavar="FOLDER", help=text)


def _add_data(parser, text: str):
    """The flags of a folder, which ``text`` describes, and of the data; gives the data's group."""
    _add_folder(parser, text)
    group = parser.add_argument_group("data")
    text, folder = "folder of the data (default: code/data)", CODE / "data"
    group.add_argument("--data-dir", type=Path, default=folder, metavar="DIR", help=text)
    group.add_argument(
        "--mirror", metavar="URL", help="address to download CIFAR-10 or CIFAR-100 from"
    )
    return group


def _add_inference(parser) -> None:
    add = parser.add_argument_group("network").add_argument
    add("--layout", choices=Configure.LAYOUTS, help="layout of a .npy of images (default: auto)")
    add(
        "--precision",
        choices=("float32", "bfloat16"),
        help="arithmetic (default: float32, whose answers agree between machines to 1e-4)",
    )
    for key in Configure.TEST_TIME:
        add(
            f"--{key.replace('_', '-')}",
            action=argparse.BooleanOptionalAction,
            help=f"{Configure.MODEL_KEYS[key].meaning} (default: as trained)",
        )
    add("--seen-test-images", action="store_true", help="accept a run of the study leak")


def _add_all_keys(parser, data) -> dict:
    """All keys of the configuration as flags in their groups, of which ``data`` is one."""
    groups = {"data": data}
    for name in ("network", "training", "augmentation"):
        groups[name] = parser.add_argument_group(name)
    for name in (*Configure.MODEL_KEYS, *Configure.TRAINING_KEYS):
        group = next((g for g, keys in Configure.KEY_GROUPS.items() if name in keys), "training")
        _add_keys(groups[group], name)
    return groups


def _add_keys(group, *names: str) -> None:
    """Keys of the configuration as flags, --flip and --no-flip for a boolean."""
    group.set_defaults(**{OVERRIDES: {}})
    for name in names:
        key = {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}[name]
        kind, flag = type(key.default), f"--{name.replace('_', '-')}"
        if kind is bool:
            options = {"action": argparse.BooleanOptionalAction}
            text = f"{key.meaning} [default {'on' if key.default else 'off'}]"
        else:
            options = {"type": kind, "metavar": kind.__name__.upper()}
            text = f"{key.meaning} [{Configure.describe_range(key)}; default {key.default}]"
        text = text.replace("%", "%%")
        group.add_argument(flag, dest=f"{OVERRIDES}.{name}", help=text, **options)


def _minutes(text: str) -> float:
    if not re.fullmatch(r"\d+\.?\d*", text):
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text!r}")
    return float(text)


if __name__ == "__main__":
    sys.exit(main())
