"""Command line: ``python main.py train``, and the other verbs that ``--help`` lists."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import Configure
from machine.console import lasting_streams
from machine.errors import EXIT_CODES, StorageError

CODE = Path(__file__).resolve().parent
SAVED_MODELS = CODE / "saved_models"
INTERRUPTED = 130


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
        self.exit(2, f"error: {message}; see python main.py --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: of the command line; None for the process's own.

    Returns:
        The exit code, a key of ``EXIT_CODES``.
    """
    with lasting_streams():
        values = vars(_parser().parse_args(arguments))
        debug, verb = values.pop("debug", False), values.pop("verb")
        if "save_dir" in values:
            own = f"study-{values['name']}" if verb == "study" else values["preset"]
            folder = values["save_dir"] or SAVED_MODELS / own
            values["save_dir"] = folder.resolve()
        # The pictures need no window: a notebook's or desktop's choice must not matter.
        os.environ["MPLBACKEND"] = "agg"
        try:
            with warnings.catch_warnings():
                warnings.showwarning = lambda message, *_: print(
                    f"warning: {message}", file=sys.stderr
                )
                # Each verb is one function, of the verb's name, in the module of that name.
                getattr(importlib.import_module(f"verbs.{verb}"), verb)(**values)
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
    if hasattr(error, "exit_code"):
        return line, error.exit_code
    if isinstance(error, ValueError):
        return line, 2
    if isinstance(error, ModuleNotFoundError):
        return f"{line}; install it with pip install -r requirements.txt", 1
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
        (_test, "measure a finished run on the public test images"),
        (_predict, "write the class probabilities of images to predictions.npy"),
        (_study, "train and test a grid of runs, such as the report's tables"),
        (_compare, "put finished runs beside each other in a table and in curves"),
        (_describe, "print the network's layers and size, and draw it"),
    ):
        name = add_flags.__name__.removeprefix("_")
        verb = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        verb.set_defaults(verb=name)
        verb.add_argument("--debug", action="store_true", help="traceback of an error")
        add_flags(verb)
    return parser


def _train(parser) -> None:
    data = _add_places(parser)
    groups = {"data": data}
    groups |= {name: parser.add_argument_group(name) for name in ("network", "training")}
    groups |= {name: parser.add_argument_group(name) for name in ("augmentation", "output")}
    add = groups["output"].add_argument
    add(
        "--fresh",
        action="store_true",
        help="new start; a run that is in the folder is moved aside, not deleted",
    )
    add(
        "--save-minutes",
        type=_minutes,
        metavar="MINUTES",
        help="minutes between saves within an epoch (default: 10); each epoch ends with one",
    )
    groups["training"].add_argument(
        "--strategy",
        choices=Configure.STRATEGIES,
        help="devices that train; auto finds a cluster (TF_CONFIG, Slurm) or several GPUs",
    )
    groups["training"].add_argument(
        "--config", type=Path, metavar="RUN.JSON", help="record whose configuration is used"
    )
    groups["training"].add_argument(
        "--init-from", type=Path, metavar="RUN", help="folder of a finished run to start from"
    )
    for name in (*Configure.MODEL_KEYS, *Configure.TRAINING_KEYS):
        group = next((g for g, keys in Configure.KEY_GROUPS.items() if name in keys), "training")
        _add_keys(groups[group], name)


def _test(parser) -> None:
    add = _add_places(parser).add_argument
    add("--dataset", help="data set that the run must have been trained on")
    add(
        "--input",
        dest="images",
        type=Path,
        metavar="IMAGES",
        help="labelled images of your own: .npy, picture or folder",
    )
    add("--labels", type=Path, metavar="LABELS.NPY", help="labels of --input, integers 0..K-1")
    _add_inference(parser)


def _predict(parser) -> None:
    add = _add_places(parser).add_argument
    add(
        "--input",
        dest="images",
        type=Path,
        metavar="FILE",
        help="images to classify: .npy, PNG, JPEG, or a folder of pictures",
    )
    add("--skip-damaged", action="store_true", help="answers for the rest if a picture is damaged")
    parser.set_defaults(default_output=CODE.parent / "predictions.npy")
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
    add("name", choices=Configure.STUDIES, help=" | ".join(Configure.STUDIES))
    _add_folders(parser, "folder of the study (default: code/saved_models/study-NAME)")
    add("--seeds", type=int, metavar="N", help="runs of each configuration (default: its own)")
    add("--jobs", type=int, metavar="N", help="runs at a time, each on its own cores or GPU")
    add("--only", metavar="ROW", help="train and test one run of this configuration, no more")
    add("--seed", type=int, metavar="S", help="seed of the run of --only (default: 0)")
    group = parser.add_argument_group("all runs")
    _add_keys(group, "epochs", "depth", "width", "dataset", "valid_size", "batch_size", "precision")


def _compare(parser) -> None:
    parser.set_defaults(output=Path("comparison"))
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a tested run")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder to write (default: comparison)"
    )


def _describe(parser) -> None:
    _add_preset(parser, "its configuration")
    parser.set_defaults(output=Path("network.png"))
    parser.add_argument(
        "--output", type=Path, metavar="PNG", help="picture to write (default: network.png)"
    )
    _add_keys(parser, "depth", "width", "dropout_stack2", "dropout_stack3")


def _add_places(parser):
    """The flags that name the run and the data; gives the group of the data."""
    _add_preset(parser, "configuration and name of a run")
    return _add_folders(parser, "folder of the run (default: code/saved_models/PRESET)")


def _add_preset(parser, text: str) -> None:
    presets = tuple(Configure.PRESETS)
    parser.set_defaults(preset=presets[0])
    parser.add_argument("--preset", choices=presets, help=f"{text} (default: {presets[0]})")


def _add_folders(parser, text: str):
    parser.set_defaults(save_dir=None, data_dir=CODE / "data")
    parser.add_argument("--save-dir", type=Path, metavar="FOLDER", help=text)
    group = parser.add_argument_group("data")
    group.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the data (default: code/data)"
    )
    group.add_argument("--mirror", metavar="URL", help="address to download CIFAR-10 from")
    return group


def _add_inference(parser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--layout", choices=Configure.LAYOUTS, help="layout of a .npy of images (default: auto)"
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        help="arithmetic (default: float32, which gives the same answer on every machine)",
    )
    group.add_argument(
        "--test-time-flip",
        action=argparse.BooleanOptionalAction,
        help="mean of the probabilities of an image and its mirror image (default: as trained)",
    )
    group.add_argument(
        "--seen-test-images",
        action="store_true",
        help="take a run of the study leak, which was trained on the test images",
    )


class _Override(argparse.Action):
    """Puts a key of the configuration into ``overrides``."""

    def __init__(self, option_strings, dest, negative=None, **options):
        self._negative = negative
        super().__init__(option_strings, dest, **options)

    def __call__(self, parser, namespace, value, option_string=None):
        if self.nargs == 0:
            value = option_string != self._negative
        namespace.overrides = {**namespace.overrides, self.dest: value}


def _add_keys(group, *names: str) -> None:
    """Keys of the configuration as flags, which put their values into ``overrides``."""
    group.set_defaults(overrides={})
    for name in names:
        _add_key(group, name, {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}[name])


def _add_key(group, name: str, key: Configure.Key) -> None:
    """One key of the configuration as a flag: --flip and --no-flip for a boolean."""
    kind, flag = type(key.default), name.replace("_", "-")
    shown = f"{key.meaning} [{Configure.describe_range(key)}; default {key.default}]"
    options: dict[str, Any] = {"type": kind, "metavar": kind.__name__.upper()}
    names = [f"--{flag}"]
    if kind is bool:
        names.append(f"--no-{flag}")
        options = {"nargs": 0, "negative": names[1]}
        shown = f"{key.meaning} [default {'on' if key.default else 'off'}]"
    group.add_argument(
        *names, dest=name, action=_Override, help=shown.replace("%", "%%"), **options
    )


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text!r}")
    return minutes


if __name__ == "__main__":
    sys.exit(main())
