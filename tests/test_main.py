"""main.py: the three verbs as a user types them, one line and one exit code for each mistake."""

import contextlib
import csv
import functools
import io
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from finished import save_run
from PIL import Image
from processes import Process
from saved import digest

import Configure
import DataLoader
import main
import verbs.test
from machine import processor
from machine.errors import InterruptedRunError, RunError
from sources import shapes
from verbs.predict import predict
from verbs.train import data_digests

MAIN = Path(main.__file__)
TINY = [
    *("--preset", "quickstart", "--depth", "8", "--width", "2", "--epochs", "2"),
    *("--batch-size", "64", "--valid-size", "100", "--precision", "float32"),
    *("--optimizer", "sgd"),  # compiled in less time than muon
]
SIZES = 600, 200, 40  # of the parts of the embedded set, in place of thousands
FILES = {
    ".lock",
    "augmented_batch.png",
    "classes.png",
    "curves.png",
    "history.csv",
    "model.weights.h5",
    "pixel_mean.npy",
    "run.json",
    "state.npz",
    "state.previous.npz",
}


@pytest.fixture(scope="module", autouse=True)
def few_images():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SPLIT_SIZES", SIZES)
        shapes.load.cache_clear()
        yield
    shapes.load.cache_clear()


def start(output, *arguments, **options):
    """Start a verb in a process of its own: see ``run_apart`` for the options."""
    return Process(output, run_apart, [str(argument) for argument in arguments], **options)


def run_apart(arguments, file_bytes=None, step=None):
    """Run ``main.py`` with files of so many bytes at most, and with a stand-in for its step."""
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    shapes.SPLIT_SIZES = SIZES
    if step:
        import Model

        Model.TrainStep = step
    sys.exit(main.main(arguments))


class Step:
    """Stands for ``TrainStep``, whose compilation takes seconds: it learns nothing, slowly."""

    def __init__(self, *_, **__):
        import tensorflow as tf

        self.variables = {"weights": tf.Variable(tf.zeros(250_000))}

    def run(self, order, position, step, rates, small):
        time.sleep(0.1)
        return np.ones(len(rates)), np.zeros(len(rates))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    process = start(folder.parent / "output", "train", *TINY, "--save-dir", folder)
    assert process.finish() == ""
    line = r"^epoch 2/2  learning rate \S+  train loss \S+  .* images/s$"
    assert re.search(line, process.read("out"), re.M)
    assert {path.name for path in folder.iterdir()} == FILES  # before other verbs add theirs
    return folder


@pytest.fixture
def fails(capfd, monkeypatch):
    """Run a verb in this process that must fail; gives the exit code and the one line."""

    def run(*arguments):
        monkeypatch.setattr("warnings.showwarning", None)  # main sets its own
        try:
            code = main.main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        return code, lines[0].removeprefix("error: ")

    return run


def run(*arguments):
    """Run a verb in this process; most of a process of its own is the import of TensorFlow."""
    return main.main([str(argument) for argument in arguments])


# The verbs


def test_a_run_leaves_its_record(trained):
    record = json.loads((trained / "run.json").read_text())
    assert record["dataset"] == "shapes"
    assert record["training_configs"]["epochs"] == 2
    assert record["parameters"] == 1_498
    assert set(record["data_digests"]) == {"train", "test"}
    assert record["versions"].keys() == {"tensorflow", "keras", "numpy"}
    assert record["hardware"]["processor"]
    assert record["precision"] == {"used": "float32", "reason": "as asked"}
    assert record["minutes"] > 0
    assert not re.search(str(trained.parent), json.dumps(record))


def test_test_measures_the_public_test_images(trained, capfd):
    assert run("test", "--save-dir", trained) == 0
    out = capfd.readouterr().out
    metrics = json.loads((trained / "test_metrics.json").read_text())
    views = {"test_time_flip": False, "test_time_shift": False}
    how = {"dataset": "shapes", "precision": "float32", **views}
    assert how.items() <= metrics.items()
    assert metrics["n"] == np.sum(metrics["confusion_matrix"]) == 200
    assert metrics["accuracy"] == np.trace(metrics["confusion_matrix"]) / 200
    assert f"top-1 accuracy  {100 * metrics['accuracy']:.2f} %" in out
    for name in ("confusion_matrix.png", "mistakes.png"):
        assert (trained / name).read_bytes().startswith(b"\x89PNG")


def test_test_looks_at_an_image_as_it_is_told_to(trained, tmp_path, capfd):
    from Model import Model

    for name in ("run.json", "model.weights.h5", "pixel_mean.npy"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    views = {"test_time_flip": True, "test_time_shift": True}
    flags = ("--precision", "bfloat16", "--test-time-flip", "--test-time-shift")
    assert run("test", "--save-dir", tmp_path, *flags) == 0
    assert (
        "bfloat16, each also with its mirror image and moved by a pixel" in capfd.readouterr().out
    )
    (path,) = tmp_path.glob("test_metrics*")
    assert path.name == "test_metrics_flip_shift_bfloat16.json"
    assert not list(tmp_path.glob("*.png"))
    metrics = json.loads(path.read_text())
    assert views.items() <= metrics.items()
    x, y = shapes.load()[2:4]
    expected = Model.load(tmp_path, "bfloat16", **views).evaluate(x, y)
    assert expected.metrics["loss"] == metrics["loss"]
    np.save(tmp_path / "images.npy", x)
    files = ("--input", tmp_path / "images.npy", "--output", tmp_path / "predictions.npy")
    assert run("predict", "--save-dir", tmp_path, *files, *flags) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "predictions.npy"), expected.probabilities)
    in_float32 = Model.load(tmp_path, **views).predict_prob(x)
    for other in (expected.probabilities, Model.load(tmp_path).predict_prob(x)):
        assert not np.array_equal(in_float32, other)


def test_test_measures_what_the_run_was_validated_by_and_trained_on(trained, capfd, fails):
    record = json.loads((trained / "run.json").read_text())
    valid = record["training_configs"]["valid_size"]
    before = {path: path.read_bytes() for path in trained.iterdir()}
    for split, images in (("valid", valid), ("train", len(shapes.load()[0]) - valid)):
        assert run("test", "--save-dir", trained, "--split", split) == 0
        out = capfd.readouterr().out
        assert f"data set        shapes, the {split} images of the run\n" in out
        assert f"images          {images}\n" in out
        if split == "valid":
            expected = 100 * record["last_epoch"]["valid_accuracy"]
            assert f"top-1 accuracy  {expected:.2f} %" in out
        assert json.loads((trained / f"{split}_metrics.json").read_text())["n"] == images
    after = {path: path.read_bytes() for path in trained.iterdir()}
    written = {path.name for path in after if after[path] != before.get(path)}
    assert written <= {"valid_metrics.json", "train_metrics.json"}
    files = ("--input", "a.npy", "--labels", "b.npy")
    code, line = fails("test", "--save-dir", trained, "--split", "valid", *files)
    assert (code, line) == (2, "split: expected no --input with it, found a.npy; give one of them")


def test_predict_writes_a_row_for_each_image_in_order(trained, tmp_path, capfd, monkeypatch):
    import Model

    expected = Model.Model.load(trained).predict_prob(shapes.load()[4])
    output = tmp_path / "predictions.npy"
    monkeypatch.setattr(Model, "INFERENCE_BATCH", 1)  # more than one batch of the file
    for _ in range(2):  # the second answer takes the place of the first
        assert run("predict", "--save-dir", trained, "--output", output) == 0
        out = capfd.readouterr().out
        assert "predicting 40 images: the private test images of shapes" in out
    probabilities = np.load(output)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["predictions.csv", "predictions.npy"]
    with (tmp_path / "predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    values = np.array([[line[name] for name in shapes.CLASS_NAMES] for line in lines])
    np.testing.assert_array_equal(values.astype(np.float32), probabilities)  # never rounded
    best = probabilities.argmax(1)
    assert [line["class"] for line in lines] == [shapes.CLASS_NAMES[i] for i in best]
    assert [np.float32(line["probability"]) for line in lines] == list(probabilities.max(1))
    assert [line["row"] for line in lines] == [str(i) for i in range(40)]


def test_other_kernels_give_the_same_classes_and_almost_the_same_probabilities(trained, tmp_path):
    asked = os.environ.get("TF_ENABLE_ONEDNN_OPTS")
    if asked is None:
        pytest.skip("oneDNN is not chosen on this kind of processor")
    np.save(tmp_path / "in.npy", shapes.load()[2])
    arguments = ("predict", "--save-dir", trained, "--input", tmp_path / "in.npy", "--output")
    assert run(*arguments, tmp_path / "one.npy") == 0
    other = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1" if asked == "0" else "0"}
    command = [sys.executable, MAIN, *arguments, tmp_path / "other.npy"]
    subprocess.run(command, env=other, check=True, capture_output=True)
    one, two = (np.load(tmp_path / name) for name in ("one.npy", "other.npy"))
    assert (one != two).any()  # they are other kernels
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(one.argmax(1), two.argmax(1))


def test_a_pipe_takes_the_rows_alone(trained, tmp_path, capfd):
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert run("predict", "--save-dir", trained, "--output", pipe) == 0
    reader.join(30)
    assert np.load(io.BytesIO(heard[0])).shape == (40, 10)
    out, err = capfd.readouterr()
    assert out == "" and "predicting 40 images" in err and f"probabilities: {pipe}" in err
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_reader_that_goes_away_does_not_stop_a_verb(trained, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    gone = os.fdopen(writing, "w", buffering=1)
    monkeypatch.setattr(sys, "stdout", gone)
    assert run("predict", "--save-dir", trained, "--output", tmp_path / "out.npy") == 0
    assert np.load(tmp_path / "out.npy").shape == (40, 10)
    with contextlib.suppress(BrokenPipeError):  # of what it could not write before
        gone.close()


def test_the_private_images_of_cifar10_are_found_or_else_the_public_ones_are_taken(
    tmp_path, monkeypatch, capfd
):
    model = save_run(tmp_path / "run", dataset="cifar10")
    folder, output = tmp_path / "data", tmp_path / "predictions.npy"
    private = folder / "Private" / "x.npy"
    where = {"save_dir": tmp_path / "run", "data_dir": folder, "default_output": output}
    (x, _), (public, labels) = tiny.images(5), tiny.images(4, seed=1)
    private.parent.mkdir(parents=True)
    np.save(private, x)
    predict(**where)
    assert "predicting 5 images: x.npy (" in capfd.readouterr().out
    np.testing.assert_allclose(np.load(output), model.predict_prob(x), atol=1e-6)
    private.unlink()
    data = DataLoader.DataSet(public, labels, public, labels, shapes.CLASS_NAMES)
    monkeypatch.setattr(DataLoader, "load_data", lambda *_: data)
    monkeypatch.setattr(DataLoader, "digest", lambda *_: "b")  # that of the record
    predict(**where)
    said = f"4 images: the test images of cifar10, as no private .npy is below {folder}"
    assert said in capfd.readouterr().out
    np.testing.assert_allclose(np.load(output), model.predict_prob(public), atol=1e-6)


def test_without_an_output_the_answers_stay_with_the_run_if_it_is_not_of_cifar10(tmp_path):
    save_run(tmp_path / "run")
    other = tmp_path / "predictions.npy"
    predict(save_dir=tmp_path / "run", data_dir=tmp_path, default_output=other)
    assert np.load(tmp_path / "run" / "predictions.npy").shape == (40, 10)
    assert not other.exists()


# Runs that go on


def test_a_finished_run_has_nothing_to_do(trained, capfd):
    before = digest(trained)
    assert main.main(["train", *TINY, "--save-dir", str(trained)]) == 0
    assert "this very run is finished; nothing to do" in capfd.readouterr().out
    assert digest(trained) == before


def test_a_run_that_is_made_longer_is_whole_until_it_is_finished(tmp_path, monkeypatch):
    def interrupt(*_):
        raise InterruptedRunError("stopped")

    command = ["train", *TINY, "--schedule", "constant", "--save-dir", tmp_path, "--epochs"]
    assert run(*command, 1) == 0
    names = ("history.csv", "curves.png", "run.json", "model.weights.h5")
    before = [(tmp_path / name).read_bytes() for name in names]
    with monkeypatch.context() as patch:
        patch.setattr("verbs.train._save_run", interrupt)
        assert run(*command, 2) == InterruptedRunError.exit_code
    assert [(tmp_path / name).read_bytes() for name in names] == before
    assert run(*command, 2) == 0
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3
    assert digest(tmp_path)[1] != json.loads(before[2])["history_sha256"]


def test_a_wrong_value_leaves_a_finished_run_in_its_place(trained, fails):
    before = sorted(os.listdir(trained))
    code, line = fails("train", *TINY, "--batch-size", "60000", "--save-dir", trained)
    assert (code, line.split(",")[0]) == (2, "batch_size: expected at most 500")
    assert sorted(os.listdir(trained)) == before


def test_a_run_that_is_ended_by_a_signal_goes_on_to_the_same_bits(
    trained, tmp_path, monkeypatch, capfd
):
    arguments = ("train", *TINY, "--save-dir", tmp_path / "run")
    with monkeypatch.context() as patch:
        # As a scheduler warns; tests/crash.py sends others, and later.
        patch.setattr("verbs.train._present", lambda *_: signal.raise_signal(signal.SIGUSR1))
        patch.setattr(processor, "cores", lambda: 99)
        assert run(*arguments) == 75
    assert "the same command goes on from there" in capfd.readouterr().err
    assert not (tmp_path / "run" / "run.json").exists()
    assert run(*arguments) == 0
    assert re.search(r"^going on after step [1-9]", capfd.readouterr().out, re.M)
    assert digest(tmp_path / "run") == digest(trained)
    (change,) = json.loads((tmp_path / "run" / "run.json").read_text())["machine_changes"]
    assert change == f"hardware cores: was 99, is {processor.cores()}"


def test_a_signal_before_the_first_step_leaves_the_run_that_is_there(
    trained, tmp_path, monkeypatch, capfd
):
    shutil.copytree(trained, tmp_path / "run")
    warn = functools.partial(signal.raise_signal, signal.SIGTERM)
    monkeypatch.setattr(processor, "prepare_tensorflow", warn)
    assert run("train", *TINY, "--seed", "9", "--save-dir", tmp_path / "run") == 75
    assert "stopped before the training; nothing was changed" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert digest(tmp_path / "run") == digest(trained)


def test_a_disk_that_fills_up_ends_the_run_and_leaves_no_half_file(tmp_path):
    folder = tmp_path / "run"
    arguments = ("train", *TINY, "--save-dir", folder)
    # Room for each picture, not for the state.
    err = start(tmp_path / "output", *arguments, file_bytes=600_000, step=Step).finish(6)
    assert err.startswith(f"error: cannot write {folder}/state.npz: File too large")
    assert len(err.splitlines()) == 1
    assert {path.name for path in folder.iterdir()} <= FILES - {"state.npz", "run.json"}


def test_a_folder_that_vanishes_ends_the_run(tmp_path):
    folder = tmp_path / "run"
    arguments = ("train", *TINY, "--epochs", "20", "--save-dir", folder, "--save-minutes", "0")
    process = start(tmp_path / "output", *arguments, step=Step)
    process.wait_for((folder / "state.npz").exists)
    folder.rename(tmp_path / "elsewhere")
    err = process.finish(6)
    assert err.splitlines() == [err.strip()]
    assert err.startswith(f"error: cannot write {folder}/")
    assert (tmp_path / "elsewhere" / "state.npz").exists()
    assert not folder.exists()


# Mistakes


def test_help_imports_neither_tensorflow_nor_numpy():
    script = (
        "import sys; sys.argv = ['main.py', 'train', '--help']\n"
        "import atexit; atexit.register(lambda: print(*sorted(sys.modules)))\n"
        f"sys.path.insert(0, {str(MAIN.parent)!r}); import main; main.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    modules = done.stdout.splitlines()[-1].split()
    assert done.returncode == 0
    assert not {"tensorflow", "keras", "numpy", "matplotlib"} & set(modules)
    for name, key in {**Configure.MODEL_KEYS, **Configure.TRAINING_KEYS}.items():
        flag = "--" + name.replace("_", "-")
        default = key.default
        if isinstance(default, bool):
            default = "on" if default else "off"
        text = rf"^ +{flag}\b(?:(?!\n +--)(?s:.))*?default\s+{re.escape(str(default))}\]"
        assert re.search(text, done.stdout, re.M), flag


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("train --frob 1", 2, "unrecognized arguments: --frob 1"),
        ("train --epochs many", 2, "argument --epochs: invalid int value: 'many'"),
        ("train --epochs 0", 2, "epochs: expected 1..100000, found 0"),
        ("train --flip maybe", 2, "unrecognized arguments: maybe"),
        ("train --depth 21", 2, "depth: expected 6n + 2"),
        ("train --preset best", 2, "argument --preset: invalid choice: 'best'"),
        ("train {tiny} --valid-size 600", 2, "valid_size: expected 0..599"),
        (
            "train --preset quickstart --valid-size 9 --save-dir /dev/null/run",
            6,
            "cannot write /dev/null/run",
        ),
        (
            "train --mirror ftp://mirror/ --data-dir {tmp} --save-dir {tmp}/run",
            2,
            "mirror: expected an http://",
        ),
        ("test --save-dir {tmp}", 5, "{tmp}: expected a finished run, found no run.json"),
        ("test --save-dir {run} --input {tmp}/unit.npy", 2, "expected --input and --labels"),
        ("predict --save-dir {tmp}", 5, "{tmp}: expected a finished run, found no run.json"),
        ("predict --save-dir {run} --input {tmp}/x.npy", 3, "{tmp}/x.npy: expected a .npy file"),
        ("predict --save-dir {run} --input {tmp}/unit.npy", 3, "{tmp}/unit.npy: expected pixels"),
        ("predict --save-dir {run} --layout rows", 2, "argument --layout: invalid choice: 'rows'"),
        ("predict --save-dir {run} --output {tmp}", 2, "output: expected a file name that ends"),
        ("test --save-dir {run} --precision fp16", 2, "argument --precision: invalid choice"),
        ("train --epoch 60", 2, "unrecognized arguments: --epoch 60"),
        ("train --save-minutes nan", 2, "argument --save-minutes: expected 0 or more, found 'nan'"),
        ("predict --save-dir {run} --output {tmp}/no/out.npy", 6, "cannot write {tmp}/no/out.npy"),
        ("study tables --save-dir {tmp}/study --only best", 2, "only: expected one of base, "),
        ("study tables --save-dir {tmp}/study --seed 1", 2, "seed: expected --only with it"),
        ("study tables --save-dir {tmp}/study --seeds 0", 2, "expected 1 or more seeds and jobs"),
        ("", 2, "the following arguments are required: verb"),
    ],
)
def test_a_mistake_is_one_line_with_its_own_code(
    trained, tmp_path, fails, arguments, code, message
):
    np.save(tmp_path / "unit.npy", np.random.default_rng(0).random((2, 32, 32, 3)))
    places = {"tmp": tmp_path, "run": trained, "tiny": " ".join(TINY)}
    found, line = fails(*arguments.format(**places).split())
    assert (found, line[: len(message.format(**places))]) == (code, message.format(**places))
    assert os.listdir(tmp_path) == ["unit.npy"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("model.weights.h5", b"layers", b"layera", "model.weights.h5: damaged, or not the one"),
        ("run.json", b'"depth": 8', b'"depth": "8"', "run.json: damaged: depth: expected int"),
        ("run.json", b'"width": 2', b'"width": 3', "expected the weights of resnet8_v1"),
    ],
)
def test_a_damaged_run_is_refused(trained, tmp_path, fails, name, old, new, message):
    for file in ("run.json", "model.weights.h5", "pixel_mean.npy"):
        content = (trained / file).read_bytes()
        (tmp_path / file).write_bytes(content.replace(old, new) if file == name else content)
    code, line = fails("test", "--save-dir", tmp_path)
    assert code == 5
    assert message in line


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(28, "No space left on device"), 6, "[Errno 28] No space left on device"),
        (ModuleNotFoundError("No module named 'tqdm'"), 2, "No module named 'tqdm'; install it"),
        (MemoryError("17 GB"), 2, "expected more free memory, found too little (17 GB); a "),
        (ZeroDivisionError("two\nlines"), 1, "unexpected ZeroDivisionError: two lines; --debug"),
    ],
)
def test_whatever_goes_wrong_is_one_line(fails, monkeypatch, tmp_path, error, code, message):
    def fail(**_):
        raise error

    monkeypatch.setattr(verbs.test, "test", fail)
    found, line = fails("test", "--save-dir", tmp_path)
    assert (found, line[: len(message)]) == (code, message)


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(RunError, match=r"no run\.json"):
        run("test", "--save-dir", tmp_path, "--debug")


# What else a user types


def test_a_run_starts_from_the_weights_of_another_and_from_its_configuration(
    trained, tmp_path, capfd
):
    codes = []
    arguments = ("--epochs", "1", "--learning-rate", "1e-4", "--init-from", trained)
    where = ("--config", trained / "run.json", "--save-dir", tmp_path / "run")
    # In a thread, as sweeps call main(): Python hears no signals there.
    thread = threading.Thread(target=lambda: codes.append(run("train", *where, *arguments)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "all weights come from" in capfd.readouterr().out
    one, first = (json.loads((f / "run.json").read_text()) for f in (tmp_path / "run", trained))
    changed = {"epochs": 1, "learning_rate": 1e-4}
    assert one["training_configs"] == {**first["training_configs"], **changed}
    assert one["model_configs"] == first["model_configs"]
    assert one["init_from"] == digest(trained)[0]
    # It goes on instead of beginning anew.
    history = (trained / "history.csv").read_text().splitlines()[1]
    assert one["last_epoch"]["train_loss"] < float(history.split(",")[2]) - 0.1


def test_a_run_on_other_classes_takes_all_weights_but_the_last_layers(
    trained, tmp_path, monkeypatch, capfd
):
    import Model

    monkeypatch.setattr(Model, "TrainStep", Step)
    for seed, name in enumerate("ab"):
        tiny.write_pictures(tmp_path / "data" / name, tiny.images(3, seed)[0])
    where = ("--dataset", "folder", "--data-dir", tmp_path / "data", "--save-dir", tmp_path / "run")
    changes = ("--epochs", "1", "--batch-size", "4", "--valid-size", "0", "--init-from", trained)
    assert run("train", *TINY, *changes, *where) == 0
    assert "all weights but the last layer's, which is new, come from" in capfd.readouterr().out
    (*found, kernel, bias), (*expected, _, _) = (
        Model.Model.load(folder).network.get_weights() for folder in (tmp_path / "run", trained)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (kernel.shape, bias.shape) == ((8, 2), (2,))


@pytest.mark.parametrize("flag", ["--init-from", "--config"])
def test_a_run_does_not_come_out_of_the_folder_that_it_goes_into(trained, fails, flag):
    before = sorted(os.listdir(trained))
    code, line = fails("train", *TINY, "--save-dir", trained, flag, trained, "--epochs", "1")
    assert code == 2 and line.startswith(f"{flag[2:].replace('-', '_')}: expected a run in another")
    assert sorted(os.listdir(trained)) == before


def test_a_run_from_weights_that_have_seen_the_test_images_has_seen_them(tmp_path, fails, capfd):
    save_run(tmp_path / "leaked", seen_test_images=True)
    arguments = [*TINY, "--epochs", "1", "--init-from", tmp_path / "leaked"]
    assert run("train", *arguments, "--save-dir", tmp_path / "run") == 0
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["seen_test_images"] is True
    assert "warning: init_from: that run had other images" in capfd.readouterr().err
    code, line = fails("test", "--save-dir", tmp_path / "run")
    assert code == 5 and "--seen-test-images" in line
    # It was not trained on them itself.
    where = ("--save-dir", tmp_path / "run", "--seen-test-images")
    assert run("test", *where, "--split", "train") == 0


def test_weights_that_have_seen_the_validation_images_are_warned_of(trained, tmp_path, capfd):
    arguments = ("--seed", "1", "--batch-size", "60000", "--init-from", trained)
    assert run("train", *TINY, *arguments, "--save-dir", tmp_path / "run") == 2
    assert "warning: init_from: that run had other images, another --seed" in capfd.readouterr().err


def test_any_labelled_file_is_measured(trained, tmp_path, capfd):
    x, y = shapes.load()[2:4]
    np.save(tmp_path / "images.npy", x[:50])
    np.save(tmp_path / "labels.npy", y[:50])
    before = sorted(os.listdir(trained))
    files = ("--input", tmp_path / "images.npy", "--labels", tmp_path / "labels.npy")
    assert run("test", "--save-dir", trained, *files) == 0
    assert re.search(r"^images +50$", capfd.readouterr().out, re.M)
    assert sorted(os.listdir(trained)) == before


def test_photos_are_answered_with_names_and_classes(trained, tmp_path, capfd):
    (tmp_path / "photos").mkdir()
    for name, size in (("2.png", (40, 32)), ("10.png", (32, 32))):
        Image.new("RGB", size, "red").save(tmp_path / "photos" / name)
    (tmp_path / "photos" / "3.png").write_bytes(b"<html>")
    arguments = ("predict", "--save-dir", trained, "--input", tmp_path / "photos")
    output = ("--output", tmp_path / "out.npy")
    assert run(*arguments, *output) == 3
    assert "3.png" in capfd.readouterr().err
    assert run(*arguments, *output, "--skip-damaged") == 0
    out = capfd.readouterr().out
    assert "1 of 3 pictures was resized." in out
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [["0", "2.png"], ["1", "10.png"]]
    assert len(rows[0].split(",")) == 14
    assert (tmp_path / "out.gallery.png").read_bytes().startswith(b"\x89PNG")
    np.save(tmp_path / "in.npy", np.zeros((1, 32, 32, 3), np.uint8))
    layout = ("--layout", "nhwc")
    assert run(*arguments[:3], "--input", tmp_path / "in.npy", *output, *layout) == 0
    assert not (tmp_path / "out.gallery.png").exists()  # of other answers
    (tmp_path / "out.csv").write_text("my own\n")
    (tmp_path / "my.gallery.png").write_bytes((tmp_path / "photos" / "2.png").read_bytes())
    names = ("out.csv", "in.npy", "my.gallery.png")
    kept = {path: path.read_bytes() for path in map(tmp_path.joinpath, names)}
    assert run(*arguments, *output, "--skip-damaged") == 2
    assert run(*arguments[:3], "--input", tmp_path / "in.npy", "--output", tmp_path / "in.npy") == 2
    assert run(*arguments, "--output", tmp_path / "out.png", "--skip-damaged") == 2
    for images in (tmp_path / "photos" / "2.png", tmp_path / "my.gallery.png"):
        assert run(*arguments[:3], "--input", images, "--output", tmp_path / "my.npy") == 2
    mine = ("--output", tmp_path / "my.npy", *layout)
    assert run(*arguments[:3], "--input", tmp_path / "in.npy", *mine) == 0
    assert all(path.read_bytes() == before for path, before in kept.items())


def test_answers_do_not_replace_a_file_of_the_run(tmp_path, fails):
    save_run(tmp_path)
    path = tmp_path / "pixel_mean.npy"
    before = path.read_bytes()
    np.save(tmp_path / "in.npy", np.zeros((1, 32, 32, 3), np.uint8))
    files = ("--input", tmp_path / "in.npy", "--output", path)
    assert fails("predict", "--save-dir", tmp_path, *files)[0] == 2
    assert path.read_bytes() == before


def test_a_run_that_held_no_images_out_cannot_be_validated(tmp_path, fails):
    digests = data_digests(DataLoader.load_data(tmp_path, "shapes"))
    configs = tiny.training_configs(dataset="shapes", valid_size=0)
    save_run(tmp_path, data_digests=digests, training_configs=configs)
    code, line = fails("test", "--save-dir", tmp_path, "--split", "valid")
    assert code == 5 and "expected a run with validation images, found none held out" in line


def test_test_images_of_something_else_are_refused(tmp_path, fails):
    save_run(tmp_path / "shapes")  # of other images than the embedded ones
    save_run(tmp_path / "folder", dataset="folder")
    for seed, name in enumerate("ab"):
        tiny.write_pictures(tmp_path / "data" / name, tiny.images(3, seed)[0])
    for verb, name in (("test", "shapes"), ("predict", "folder")):
        where = ("--save-dir", tmp_path / name, "--data-dir", tmp_path / "data")
        code, line = fails(verb, *where)
        assert code == 5 and "expected the test images of the run, found others" in line
    assert not (tmp_path / "shapes" / "test_metrics.json").exists()
    assert not (tmp_path / "folder" / "predictions.npy").exists()


def test_private_images_that_were_found_are_not_replaced_either(tmp_path, fails):
    save_run(tmp_path / "run", dataset="cifar10")
    path = tmp_path / "data" / "private.npy"
    path.parent.mkdir()
    np.save(path, np.zeros((1, 32, 32, 3), np.uint8))
    before = path.read_bytes()
    where = ("--save-dir", tmp_path / "run", "--data-dir", path.parent, "--output", path)
    assert fails("predict", *where)[0] == 2
    assert path.read_bytes() == before


def test_flags_without_effect_are_warned_of(tmp_path, capfd):
    flags = ("--optimizer", "adam", "--nesterov", "--crop-pad", "0", "--crop-mode", "reflect")
    flags += ("--small-share", "0.1")
    arguments = ("train", *TINY, *flags, "--batch-size", "60000", "--save-dir", tmp_path / "run")
    assert run(*arguments) == 2
    warned = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert [x.split()[1] for x in warned] == ["nesterov", "crop_mode", "small_share"]
