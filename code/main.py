"""Command line: ``python main.py train``, ``python main.py test``, ``python main.py predict``."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import warnings
from pathlib import Path
from signal import SIGINT, SIGTERM

import Configure
from machine.errors import DeterminismError, InterruptedRunError, RunError, StorageError, UserError

CODE = Path(__file__).resolve().parent
DATA_DIR = CODE / "data"
SAVED_MODELS = CODE / "saved_models"
PREDICTIONS = CODE.parent / "predictions.npy"
PREDICT_CHUNK = 16_000  # images in memory at a time: two batches for each of eight devices
VERIFIED_STEPS = 40  # or a few more, to the end of a call
STATE_BYTES_PER_PARAMETER = 16  # the weight, two slots of the optimizer, the average; float32
INTERRUPTED = 130

EPILOG = """\
exit codes: 0 done; 1 a defect of the program; 2 a wrong flag or value; 3 data that is missing or
broken; 4 a download that failed; 5 a saved run that is missing, damaged, or of something else;
6 a place that cannot be written; 7 a loss that is no longer a number; 8 results that do not
repeat; 9 a worker of the same job that is gone; 75 stopped by a signal and saved: start the same
command again; 130 and 143 ended by a signal elsewhere; 142 a worker lost while all connected"""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a flag in one line, like every other error."""

    def __init__(self, **options):
        super().__init__(**options, allow_abbrev=False)

    def error(self, message):
        self.exit(2, f"error: {message}; see python main.py --help\n")


def main(arguments: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        arguments: of the command line; None for the process's own.

    Returns:
        The exit code.
    """
    args = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Keras imports matplotlib, which refuses a backend that is not installed, as a notebook's.
    os.environ.pop("MPLBACKEND", None)
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    try:
        args.verb(args)
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if args.debug:
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


def train(args: argparse.Namespace) -> None:
    """Train one configuration, or go on with it, and save the run."""
    model_configs, training_configs = Configure.configure(args.preset, _overrides(args))
    import DataLoader

    data = DataLoader.load_data(args.data_dir, training_configs["dataset"], args.mirror)
    split = DataLoader.train_valid_split(
        *data[:2], training_configs["valid_size"], model_configs["seed"]
    )
    _import_tensorflow()
    from machine import cluster
    from Model import Model

    with cluster.joining(args.strategy) as strategy:
        record = _describe_run(args.preset, model_configs, training_configs, data)
        flags = {"fresh": args.fresh, "verify_determinism": args.verify_determinism}
        cluster.require_same(strategy, {**record, "flags": flags})
        record["hardware"].update(cluster.describe(strategy))
        model = Model(model_configs, strategy=strategy)
        model.check_training_data(*split[:2], training_configs)
        record |= {"network": model.network.name, "parameters": model.network.count_params()}
        if args.verify_determinism:
            line = _verify_determinism(
                lambda: Model(model_configs, strategy=strategy), *split[:2], training_configs
            )
            if cluster.is_chief(strategy):
                print(line)
            return
        _train_run(args, model, record, split, strategy)


def _train_run(args, model, record, split, strategy) -> None:
    """Train in a folder; of several processes the chief alone writes and speaks."""
    from machine import cluster

    x_train, y_train, x_valid, y_valid = split
    chief, folder = cluster.is_chief(strategy), _run_folder(args)
    with cluster.SharedRun(strategy, folder, record) as run, _Signals() as signals:
        if not run.begin(args.fresh, STATE_BYTES_PER_PARAMETER * record["parameters"]):
            if chief:
                print(f"{folder}: this very run is finished; nothing to do")
            return
        if chief:
            print(
                f"{record['dataset']}: {len(x_train)} training and {len(x_valid)} validation "
                f"images\n{record['network']}: {record['parameters']:,} parameters, "
                f"{model.precision} ({model.precision_reason})\ninto {folder}",
                flush=True,
            )
            _write_data_pictures(folder, model, x_train, y_train, record)
        progress = model.train(
            x_train,
            y_train,
            record["training_configs"],
            x_valid,
            y_valid,
            run=run,
            save_seconds=60 * args.save_minutes,
            stop=lambda step: signals.received(),
            on_epoch=_print_epoch if chief else lambda row, epochs: None,
        )
        record["machine_changes"] = run.machine_changes
        run.in_chief(lambda: _save_run(folder, model, record, progress))


def _verify_determinism(make_model, x_train, y_train, training_configs) -> str:
    """Train the first steps twice, each time from the start, and compare all weights bit by bit."""
    from runs.weights import weights_digest

    def short_run() -> tuple[str, int]:
        model, steps = make_model(), 0

        def stop(step: int) -> bool:
            nonlocal steps
            steps = step
            return step >= VERIFIED_STEPS

        with contextlib.suppress(InterruptedRunError):
            model.train(x_train, y_train, training_configs, stop=stop)
        return weights_digest(model.network, model.mean), steps

    (first, steps), (second, _) = short_run(), short_run()
    if first != second:
        raise DeterminismError(
            f"expected equal weights after {steps} steps from the same seed, found {first} and "
            f"{second}: this machine does not repeat its own results"
        )
    return f"{steps} steps, twice: equal weights {first}"


def _describe_run(preset, model_configs, training_configs, data) -> dict:
    """What run.json says of a run from its start on, before there is a network."""
    import DataLoader
    from machine import processor

    x, y, x_test, y_test = data
    precision, reason = processor.choose_precision(model_configs["precision"])
    return {
        "dataset": training_configs["dataset"],
        "class_names": DataLoader.CLASS_NAMES[training_configs["dataset"]],
        "data_digests": {
            "train": DataLoader.digest(x, y),
            "test": DataLoader.digest(x_test, y_test),
        },
        "preset": preset,
        "model_configs": model_configs,
        "training_configs": training_configs,
        "precision": {"used": precision, "reason": reason},
        "versions": processor.versions(),
        "hardware": processor.describe(),
    }


class _Signals:
    """Remembers SIGINT and SIGTERM for the training to see; the second one ends the process."""

    def __enter__(self):
        self._received = False
        self._before = {s: signal.signal(s, self._receive) for s in (SIGINT, SIGTERM)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def received(self) -> bool:
        return self._received

    def _receive(self, number, frame):
        if self._received:
            os._exit(128 + number)
        self._received = True
        # Not print: it may have been interrupted in a print itself.
        os.write(2, b"stopping after a few steps; once more to stop at once\n")


def _write_data_pictures(folder, model, x_train, y_train, record):
    """Before training: what the data set is, and what the network will see of it."""
    from machine import files
    from runs import plots

    names, dataset = record["class_names"], record["dataset"]
    classes = plots.classes_png(x_train, y_train, names, dataset)
    files.write_bytes(folder / "classes.png", classes)
    images, labels = model.preview_batch(x_train, y_train, record["training_configs"])
    batch = plots.batch_png(images, labels, names, dataset)
    files.write_bytes(folder / "augmented_batch.png", batch)


def _print_epoch(row: dict, epochs: int) -> None:
    """One line an epoch; it goes above the progress bar where there is one."""
    from tqdm import tqdm

    parts = [
        f"epoch {row['epoch']}/{epochs}",
        f"learning rate {row['learning_rate']:.2e}",
        f"train loss {row['train_loss']:.4f}",
    ]
    if row["train_accuracy"] is not None:
        parts.append(f"train accuracy {100 * row['train_accuracy']:.2f} %")
    if row["valid_loss"] is not None:
        parts.append(f"valid loss {row['valid_loss']:.4f}")
        parts.append(f"valid accuracy {100 * row['valid_accuracy']:.2f} %")
    parts.append(f"{row['images_per_second']:.0f} images/s")
    tqdm.write("  ".join(parts))
    sys.stdout.flush()


def _save_run(folder, model, record, progress):
    """After training: weights, curves, and last of all the record, which makes the run whole."""
    from machine import files
    from runs import metrics as report
    from runs import plots
    from runs.record import write_record
    from runs.weights import save_weights

    history = progress.history
    record["minutes"] = progress.seconds / 60
    record["last_epoch"] = history[-1]
    record["history_sha256"] = report.history_digest(history)
    record |= save_weights(folder, model.network, model.mean)
    files.write_bytes(folder / "history.csv", report.history_csv(history).encode())
    epochs = "1 epoch" if len(history) == 1 else f"{len(history)} epochs"
    title = f"{record['dataset']}: {record['network']}, {epochs}"
    files.write_bytes(folder / "curves.png", plots.curves_png(history, title))
    write_record(folder, record)
    print(f"trained in {record['minutes']:.1f} minutes")
    print(f"weights {record['weights_sha256']}\nhistory {record['history_sha256']}")
    print(f"curves: {folder / 'curves.png'}")


def test(args: argparse.Namespace) -> None:
    """Evaluate a saved run on the public test images of its data set."""
    import DataLoader
    from machine import files
    from runs import metrics as report
    from runs import plots

    folder = _run_folder(args)
    model, record = _load_model(folder, args)
    dataset, names = record["dataset"], record["class_names"]
    if args.dataset not in (None, dataset):
        raise RunError(
            f"{folder}: expected a model trained on {args.dataset}, found one trained on {dataset};"
            " train one, or leave out --dataset"
        )
    _, _, x_test, y_test = DataLoader.load_data(args.data_dir, dataset, args.mirror)
    if DataLoader.digest(x_test, y_test) != record["data_digests"]["test"]:
        warnings.warn(
            "these are not the test images that lay beside the training images", stacklevel=1
        )
    probabilities = model.predict_prob(x_test)
    metrics = {"dataset": dataset, **report.measure(y_test, probabilities)}
    print("\n".join(report.metrics_lines(metrics, names)), flush=True)
    files.write_bytes(folder / "test_metrics.json", _json(metrics))
    for name, picture in (
        ("confusion_matrix.png", plots.confusion_matrix_png(metrics, names)),
        ("mistakes.png", plots.mistakes_png(x_test, y_test, probabilities, names, dataset)),
    ):
        files.write_bytes(folder / name, picture)
    print(f"\npictures: {folder / 'confusion_matrix.png'}, {folder / 'mistakes.png'}")


def predict(args: argparse.Namespace) -> None:
    """Write the class probabilities of images, a row for each, in their order."""
    import numpy as np
    from tqdm import tqdm

    from machine import files

    folder = _run_folder(args)
    model, record = _load_model(folder, args)
    count, source, chunks = _images_to_predict(args, record)
    print(f"predicting {count:,} images: {source}", flush=True)
    output = args.output or (
        PREDICTIONS if record["dataset"] == "cifar10" else folder / "predictions.npy"
    )
    header = {"descr": "<f4", "fortran_order": False, "shape": (count, len(record["class_names"]))}
    if output.is_dir():
        raise UserError(f"output: expected a file to write, found the folder {output}")
    with files.writing(output) as file, tqdm(total=count, unit=" images", disable=None) as bar:
        np.lib.format.write_array_header_1_0(file, header)
        for chunk in chunks:
            file.write(model.predict_prob(chunk).astype("<f4").tobytes())
            bar.update(len(chunk))
    print(f"probabilities: {output}")


def _images_to_predict(args, record):
    """Number of images, where they come from, and the images in chunks."""
    import DataLoader

    path = args.input
    if path is None and record["dataset"] == "cifar10":
        path = DataLoader.find_private_images(args.data_dir)
    if path is not None:
        images = DataLoader.load_testing_images(path, args.layout)
        return len(images), f"{images.source} ({images.reason})", images.batches(PREDICT_CHUNK)
    if record["dataset"] == "shapes":
        from sources import shapes

        x, source = shapes.load()[4], "the private test images of shapes"
    else:
        x = DataLoader.load_data(args.data_dir, record["dataset"], args.mirror)[2]
        source = f"the public test images of {record['dataset']}, as no private ones are there"
    return len(x), source, (x[i : i + PREDICT_CHUNK] for i in range(0, len(x), PREDICT_CHUNK))


def _load_model(folder: Path, args):
    """The model of a finished run, and the run's record."""
    from runs.record import read_record
    from runs.weights import load_weights, require_weights

    record = read_record(folder)
    configs = _model_configs(folder, record, args)
    _import_tensorflow()
    from Model import Model
    from Network import count_parameters

    # A record that asks for a network of another size is refused before that is built.
    parameters = count_parameters(configs["depth"], configs["width"], len(record["class_names"]))
    require_weights(folder, parameters)
    model = Model(configs, num_classes=len(record["class_names"]))
    model.mean = load_weights(folder, model.network, record)
    print(
        f"{folder}: {record['network']} trained on {record['dataset']}, "
        f"{model.precision} ({model.precision_reason})"
    )
    return model, record


def _model_configs(folder, record, args) -> dict:
    """The model's configuration as the run recorded it, and as flags override it."""
    import DataLoader

    given = _overrides(args)
    overrides = {name: given[name] for name in Configure.MODEL_KEYS if name in given}
    for name, value in overrides.items():
        Configure.check(name, Configure.MODEL_KEYS[name], value)
    if tuple(record["class_names"]) != DataLoader.CLASS_NAMES.get(record["dataset"]):
        raise RunError(f"{folder}: run.json: found {record['dataset']!r} with other classes")
    return {**record["model_configs"], **overrides}


def _import_tensorflow() -> None:
    """Import TensorFlow without the lines that it writes before it can be told not to."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import tensorflow as tf

        tf.config.list_physical_devices()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _json(value) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _run_folder(args) -> Path:
    return (args.save_dir or SAVED_MODELS / args.preset).resolve()


def _overrides(args) -> dict:
    keys = {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}
    given = {name: getattr(args, name, None) for name in keys}
    return {name: value for name, value in given.items() if value is not None}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="main.py",
        description="ResNet v1 on CIFAR-10.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(metavar="verb", required=True, parser_class=_Parser)
    for verb, text in (
        (train, "train the report's final learner, or another preset"),
        (test, "evaluate a saved run on the public test images"),
        (predict, "write the class probabilities of images to predictions.npy"),
    ):
        _add_verb(verbs.add_parser(verb.__name__, help=text, description=text), verb)
    return parser


def _add_verb(parser, verb) -> None:
    parser.set_defaults(verb=verb)
    add = parser.add_argument
    presets = tuple(Configure.PRESETS)
    add(
        "--preset", choices=presets, default=presets[0], help="configuration (default: %(default)s)"
    )
    add("--data-dir", type=Path, default=DATA_DIR, help="folder of the data (default: code/data)")
    add("--save-dir", type=Path, help="folder of the run (default: code/saved_models/PRESET)")
    add("--mirror", metavar="URL", help="where to download CIFAR-10 from, if it is not there")
    add("--debug", action="store_true", help="show the traceback of an error")
    if verb is predict:
        add("--input", type=Path, metavar="FILE", help=".npy, PNG, JPEG, or a folder of pictures")
        layouts = ("auto", "planar", "interleaved", "nhwc", "nchw")
        add("--layout", choices=layouts, default="auto", help="of a .npy (default: %(default)s)")
        add(
            "--output",
            type=Path,
            help="file to write (default: predictions.npy beside code/, or in the run's folder "
            "for a run on another data set than CIFAR-10)",
        )
    if verb is train:
        add("--fresh", action="store_true", help="start over; a run that is there is moved aside")
        add(
            "--verify-determinism",
            action="store_true",
            help=f"train about {VERIFIED_STEPS} steps twice, compare all bits, and save nothing",
        )
        add(
            "--strategy",
            choices=Configure.STRATEGIES,
            default=Configure.STRATEGIES[0],
            help="of tf.distribute; auto finds a cluster (TF_CONFIG, Slurm) or several GPUs",
        )
        add(
            "--save-minutes",
            type=_minutes,
            default=10.0,
            help="minutes between saves within an epoch (default: %(default)s); each epoch ends "
            "with one",
        )
        keys = {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}
    else:
        keys = {name: Configure.MODEL_KEYS[name] for name in ("precision", "test_time_flip")}
    if verb is test:
        add("--dataset", help="refuse a run that was trained on another data set")
    for name, key in keys.items():
        _add_key(parser, name, key)


def _add_key(parser, name: str, key: Configure.Key) -> None:
    """One key of the configuration as a flag."""
    kind = type(key.default)
    default = str(key.default).lower() if kind is bool else key.default
    parser.add_argument(
        "--" + name.replace("_", "-"),
        type=_boolean if kind is bool else kind,
        metavar=kind.__name__.upper(),
        help=f"{key.meaning} [{Configure.describe_range(key)}; default {default}]".replace(
            "%", "%%"
        ),
    )


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = -1.0
    if not minutes >= 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {text!r}")
    return minutes


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected true or false, found {text!r}")
    return text.lower() == "true"


if __name__ == "__main__":
    sys.exit(main())
