"""Checkpoint.py: what is on disk is whole, or is refused."""

import json
import multiprocessing
import os
import resource
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest

from machine import files
from machine.errors import RunError, StorageError
from Network import resnet_v1
from runs import folder as Checkpoint

RECORD = {
    "dataset": "shapes",
    "data_digests": {"train": "a", "test": "b"},
    "network": "resnet8_v1",
    "model_configs": {"depth": 8, "precision": "auto", "seed": 0},
    "training_configs": {"epochs": 2, "schedule": "cosine", "learning_rate": 0.1},
    "versions": {"tensorflow": "2.21.0"},
    "hardware": {"processor": "a", "cores": 2},
    "precision": {"used": "float32", "reason": "as asked"},
}
FINISHED = {
    **RECORD,
    "class_names": ["a", "b"],
    "weights_sha256": "c",
    "weights_file_sha256": "d",
}
ARRAYS = {
    "network/0": np.arange(6, dtype=np.float32).reshape(2, 3),
    "optimizer/0": np.array(7, np.int64),
    "empty": np.empty((0, 3), np.uint8),
}


def changed(record=RECORD, **changes):
    """A copy of a record with other values: ``training_configs__epochs=3``."""
    record = json.loads(json.dumps(record))
    for path, value in changes.items():
        *parents, name = path.split("__")
        target = record
        for parent in parents:
            target = target[parent]
        target[name] = value
    return record


@pytest.fixture
def folder(tmp_path):
    with Checkpoint.Run(tmp_path / "run", RECORD) as run:
        run.save_state(ARRAYS, {"step": 1})
        run.save_state(ARRAYS, {"step": 2})
    return tmp_path / "run"


def begin(folder, record=RECORD, fresh=False):
    with Checkpoint.Run(folder, record) as run:
        return run.begin(fresh)


def load(folder):
    with Checkpoint.Run(folder, RECORD) as run:
        return run.load_state()


# Files


def test_a_file_is_the_old_or_the_new_one(tmp_path):
    path = tmp_path / "file"
    files.write_bytes(path, b"old")

    def fail():
        with files.writing(path) as file:
            file.write(b"new, but")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_bytes() == b"old"
    files.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"cannot write .*/gone/file: No such file"):
        files.write_bytes(tmp_path / "gone" / "file", b"")


def test_a_full_disk_leaves_no_half_file(folder):
    before = (folder / "state.bin").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with (
            Checkpoint.Run(folder, RECORD) as run,
            pytest.raises(StorageError, match=r"state.bin: File too large"),
        ):
            run.save_state({"big": np.zeros(1000, np.float32)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / "state.bin").read_bytes() == before
    assert not [name for name in os.listdir(folder) if name.endswith(".tmp")]


def test_too_little_space_is_found_out(folder):
    with Checkpoint.Run(folder, RECORD) as run:
        run.require_space(1000)
        with pytest.raises(StorageError, match=r"expected 3,\d+,\d+,\d+,\d+,\d+ bytes of free"):
            run.require_space(10**15)


# State


def test_a_state_comes_back_to_the_bit(folder):
    arrays, progress = load(folder)
    assert progress == {"step": 2}
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


def test_no_state_is_none(tmp_path):
    assert load(tmp_path / "new") is None


def test_any_changed_or_missing_byte_is_found_and_the_state_before_is_used(folder):
    path = folder / "state.bin"
    data = path.read_bytes()
    damaged = [data[:size] for size in (0, 1, 40, len(data) // 2, len(data) - 1)]
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        damaged.append(bytes(flipped))
    for content in damaged:
        path.write_bytes(content)
        with pytest.warns(UserWarning, match=r"state.bin: damaged.*from state.previous.bin"):
            assert load(folder)[1] == {"step": 1}


def test_a_damaged_state_never_takes_the_place_of_the_good_one(folder):
    (folder / "state.bin").write_bytes(b"damaged")
    with Checkpoint.Run(folder, RECORD) as run:
        with pytest.warns(UserWarning, match="damaged"):
            arrays, _ = run.load_state()
        run.save_state(arrays, {"step": 3})
    assert (folder / "state.damaged.bin").read_bytes() == b"damaged"
    (folder / "state.bin").unlink()
    assert load(folder)[1] == {"step": 1}


def test_a_kill_between_the_renames_leaves_the_last_state(folder, monkeypatch):
    def kill(source, target):
        if os.path.basename(target) == "state.bin":
            raise KeyboardInterrupt
        return replace(source, target)

    replace = os.replace
    monkeypatch.setattr(os, "replace", kill)
    with Checkpoint.Run(folder, RECORD) as run, pytest.raises(KeyboardInterrupt):
        run.save_state(ARRAYS, {"step": 3})
    assert load(folder)[1] == {"step": 2}


def test_two_damaged_states_are_an_error(folder):
    for name in ("state.bin", "state.previous.bin"):
        (folder / name).write_bytes(b"")
    with pytest.raises(RunError, match=r"state.previous.bin: damaged: 0 bytes.*--fresh"):
        load(folder)
    assert begin(folder, fresh=True)


def test_a_state_that_promises_more_than_it_has_is_damaged(folder):
    table = [["network/0", "float32", [10**15]]]
    for arrays in (table, [["network/0", "object", [1]]], [["network/0", "float32"]], 5):
        header = json.dumps({"record": {}, "arrays": arrays}).encode()
        body = Checkpoint.MAGIC + len(header).to_bytes(8, "little") + header
        for name in ("state.bin", "state.previous.bin"):
            (folder / name).write_bytes(body + Checkpoint.hashlib.sha256(body).digest())
        with pytest.raises(RunError, match="damaged"):
            load(folder)


# Which run a folder holds


def test_the_same_run_goes_on(folder):
    assert begin(folder)
    assert load(folder)[1] == {"step": 2}


def test_every_difference_of_an_unfinished_run_is_named(folder):
    other = changed(
        training_configs__learning_rate=0.2, data_digests__train="z", versions__tensorflow="2.22.0"
    )
    with pytest.raises(RunError) as caught:
        begin(folder, other)
    for difference in (
        "learning_rate: was 0.1, is 0.2",
        "train: was a, is z",
        "tensorflow: was 2.21.0, is 2.22.0",
    ):
        assert difference in str(caught.value)
    assert load(folder)[1] == {"step": 2}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"hardware__processor": "b"}, "processor: was a, is b"),
        ({"hardware__cores": 4}, "cores: was 2, is 4"),
        ({"precision__used": "bfloat16", "model_configs__precision": "bfloat16"}, "used: was"),
    ],
)
def test_another_machine_is_a_warning(folder, changes, difference):
    with pytest.warns(UserWarning, match=f"bits may differ: {difference}"):
        assert begin(folder, changed(**changes))


def test_every_machine_that_a_run_went_on_with_is_told(folder):
    for cores in (4, 4, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Checkpoint.Run(folder, changed(hardware__cores=cores)) as run:
                run.begin(False)
                run.save_state(ARRAYS, {"step": 3})
    assert run.machine_changes == ["cores: was 2, is 4", "cores: was 4, is 2"]


def test_more_epochs_extend_a_constant_rate_and_nothing_else(tmp_path):
    constant = changed(training_configs__schedule="constant")
    for name, record in (("constant", constant), ("cosine", RECORD)):
        with Checkpoint.Run(tmp_path / name, record) as run:
            run.save_state(ARRAYS, {"step": 2})
    assert begin(tmp_path / "constant", changed(constant, training_configs__epochs=3))
    with pytest.raises(RunError, match="epochs: was 2, is 1"):
        begin(tmp_path / "constant", changed(constant, training_configs__epochs=1))
    with pytest.raises(RunError, match="epochs: was 2, is 3"):
        begin(tmp_path / "cosine", changed(training_configs__epochs=3))


def finish(folder, record=FINISHED):
    """Weights and a run.json that describes them."""
    (folder / Checkpoint.WEIGHTS_FILE).write_bytes(b"weights")
    sha256 = Checkpoint.hashlib.sha256(b"weights").hexdigest()
    Checkpoint.write_record(folder, {**record, "weights_file_sha256": sha256})


def test_a_finished_run_has_nothing_to_do(folder):
    finish(folder)
    assert not begin(folder)
    (folder / "state.bin").write_bytes(b"damaged")
    (folder / "state.previous.bin").unlink()
    assert not begin(folder)
    (folder / "state.bin").unlink()
    assert not begin(folder)


def test_a_finished_run_of_another_kind_is_moved_aside_whole(folder, capsys):
    finish(folder)
    files = sorted(os.listdir(folder))
    assert begin(folder, changed(training_configs__epochs=3))
    assert os.listdir(folder) == [Checkpoint.LOCK_FILE]
    assert sorted(os.listdir(folder.with_name("run-1"))) == files
    assert "run-1 (epochs: was 2, is 3)" in capsys.readouterr().out


def test_a_finished_run_stays_finished_with_other_packages(folder):
    finish(folder)
    assert not begin(folder, changed(versions__tensorflow="2.22.0", hardware__cores=64))


def test_a_run_whose_weights_are_gone_is_not_finished(folder):
    finish(folder)
    (folder / Checkpoint.WEIGHTS_FILE).write_bytes(b"others")
    assert begin(folder)
    assert load(folder)[1] == {"step": 2}
    for name in ("state.bin", "state.previous.bin"):
        (folder / name).unlink()
    assert begin(folder)
    assert (folder.with_name("run-1") / "run.json").exists()


def test_a_run_is_not_cut_shorter_than_its_state(tmp_path):
    constant = changed(FINISHED, training_configs__schedule="constant")
    with Checkpoint.Run(tmp_path, changed(constant, training_configs__epochs=12)) as run:
        run.save_state(ARRAYS, {"step": 11})
    finish(tmp_path, constant)
    with pytest.raises(RunError, match="epochs: was 12, is 11"):
        begin(tmp_path, changed(constant, training_configs__epochs=11))


def test_only_what_a_killed_run_left_is_cleaned_up(folder):
    names = [".state.bin.999999999.tmp", f".state.bin.{os.getpid()}.tmp", ".mine.tmp", "a.1.tmp"]
    for name in names:
        (folder / name).write_bytes(b"")
    begin(folder)
    assert [name for name in names if (folder / name).exists()] == names[1:]


def test_a_finished_run_in_another_precision_is_another_run(folder):
    finish(folder)
    assert begin(folder, changed(precision__used="bfloat16"))
    assert (folder.with_name("run-1") / "run.json").exists()


def test_another_process_may_take_the_folder_that_a_run_has_left(folder, monkeypatch):
    def taken(*_):
        raise BlockingIOError

    finish(folder)
    with Checkpoint.Run(folder, changed(dataset="cifar10")) as run:
        monkeypatch.setattr(Checkpoint.fcntl, "flock", taken)
        with pytest.raises(RunError, match="found another process training into it"):
            run.begin(False)


def test_why_a_precision_was_taken_is_no_difference(folder):
    finish(folder)
    assert not begin(folder, changed(precision__reason="the processor has no avx512_bf16"))


def test_a_worker_must_train_as_its_chief_does():
    Checkpoint.require_same(RECORD, changed(precision__reason="the processor has avx512_bf16"))
    for changes in (
        {"precision__used": "bfloat16"},
        {"model_configs__precision": "float32"},
        {"flags": {"fresh": True}},
    ):
        with pytest.raises(RunError, match=r"^expected the run of the chief, found other values"):
            Checkpoint.require_same(RECORD, changed(**changes))


def test_a_finished_run_without_its_state_cannot_be_extended(tmp_path):
    constant = changed(FINISHED, training_configs__schedule="constant")
    for name in ("with", "without"):
        with Checkpoint.Run(tmp_path / name, constant) as run:
            run.save_state(ARRAYS, {"step": 2})
        finish(tmp_path / name, constant)
    (tmp_path / "without" / "state.bin").unlink()
    (tmp_path / "without" / "state.previous.bin").unlink(missing_ok=True)
    for name in ("with", "without"):
        assert begin(tmp_path / name, changed(constant, training_configs__epochs=3))
    assert sorted(path.name for path in tmp_path.glob("w*")) == ["with", "without", "without-1"]


def test_fresh_moves_any_run_aside_and_never_over_another(folder):
    for number in (1, 2):
        assert begin(folder, fresh=True)
        with Checkpoint.Run(folder, RECORD) as run:
            run.save_state(ARRAYS, {"step": number})
    assert begin(folder, fresh=True)
    assert load(folder) is None
    assert [load(folder.with_name(f"run-{n}"))[1]["step"] for n in (1, 2, 3)] == [2, 1, 2]


def test_one_process_at_a_time(folder):
    def hold(ready, done):
        with Checkpoint.Run(folder, RECORD):
            ready.set()
            done.wait(30)

    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    holder = context.Process(target=hold, args=(ready, done))
    holder.start()
    assert ready.wait(30)
    with pytest.raises(RunError, match="another process training into it"):
        begin(folder)
    holder.kill()
    holder.join()
    assert begin(folder)


# Weights and run.json


@pytest.fixture
def saved(tmp_path):
    network = resnet_v1(depth=8, width=2, seed=5)
    mean = np.random.default_rng(0).random((32, 32, 3), np.float32)
    return tmp_path, network, mean, Checkpoint.save_weights(tmp_path, network, mean)


def load_as_it_is(folder, network):
    """Load the weights with the checksum that the file has now."""
    data = (folder / Checkpoint.WEIGHTS_FILE).read_bytes()
    return Checkpoint.load_weights(folder, network, Checkpoint.hashlib.sha256(data).hexdigest())


def test_weights_come_back_to_the_bit(saved):
    folder, network, mean, sha256 = saved
    other = resnet_v1(depth=8, width=2, seed=6)
    np.testing.assert_array_equal(Checkpoint.load_weights(folder, other, sha256), mean)
    for one, two in zip(network.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    digests = {Checkpoint.weights_digest(net, mean) for net in (network, other)}
    assert len(digests) == 1
    assert os.listdir(folder) == [Checkpoint.WEIGHTS_FILE]


def test_keras_reads_the_weights_too(saved):
    folder, network, _, _ = saved
    other = resnet_v1(depth=8, width=2, seed=6)
    other.load_weights(folder / Checkpoint.WEIGHTS_FILE)
    np.testing.assert_array_equal(other.get_weights()[0], network.get_weights()[0])


def test_another_architecture_is_refused_with_both(saved):
    with pytest.raises(RunError) as caught:
        load_as_it_is(saved[0], resnet_v1(depth=14, width=4))
    line = str(caught.value)
    assert "expected the weights of resnet14_v1 (15 convolutions, first width 4" in line
    assert "found 9 convolutions, first width 2" in line


def test_any_changed_or_missing_byte_is_found_before_the_file_is_parsed(saved):
    folder, network, _, sha256 = saved
    path = folder / Checkpoint.WEIGHTS_FILE
    data = path.read_bytes()
    for place in range(0, len(data), 997):
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        for content in (data[:place], flipped):
            path.write_bytes(content)
            with pytest.raises(RunError, match=r"not the weights that run|expected 5,992 to"):
                Checkpoint.load_weights(folder, network, sha256)


def test_a_file_that_is_no_hdf5_is_refused(saved):
    (saved[0] / Checkpoint.WEIGHTS_FILE).write_bytes(b"weights" * 1000)
    with pytest.raises(RunError, match="damaged"):
        load_as_it_is(*saved[:2])


def test_a_file_that_cannot_be_read_is_refused(saved, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RunError, match=r"damaged: .*Permission denied"):
        Checkpoint.load_weights(saved[0], saved[1], saved[3])


def test_a_file_far_too_large_is_refused_unread(saved):
    os.truncate(saved[0] / Checkpoint.WEIGHTS_FILE, 1 << 40)
    with pytest.raises(RunError, match=r"expected 5,992 to 4,206,288 bytes for 1,498 par"):
        Checkpoint.load_weights(saved[0], saved[1], saved[3])


def test_a_file_that_points_elsewhere_is_refused(saved):
    path = saved[0] / Checkpoint.WEIGHTS_FILE
    name = "layers/conv2d/vars/0"
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(RunError, match="link to elsewhere"):
        load_as_it_is(*saved[:2])
    for options in (
        {"external": [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]},
        {"chunks": (3, 3, 3, 2), "compression": "gzip"},
    ):
        with h5py.File(path, "a") as file:
            del file[name]
            file.create_dataset(name, (3, 3, 3, 2), "float32", **options)
        with pytest.raises(RunError, match="not a plain float32 array"):
            load_as_it_is(*saved[:2])


def test_no_weights_are_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RunError, match=r"found none; run python main.py train"):
        Checkpoint.load_weights(tmp_path, resnet_v1(depth=8, width=2), "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"[1]", "damaged: no record"),
        (b"{}", "damaged: no dataset"),
        (b'{"dataset": "shapes", "class_names": []}', "damaged: no data_digests.train"),
        (b"\xff\xfe", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b" " * (Checkpoint.RECORD_BYTES_MAX + 1), "expected at most 1,048,576 bytes"),
    ],
)
def test_a_broken_record_is_refused(tmp_path, content, message):
    (tmp_path / Checkpoint.RECORD_FILE).write_bytes(content)
    with pytest.raises(RunError, match=message):
        Checkpoint.read_record(tmp_path)


def test_no_record_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RunError, match=r"expected a finished run, found no run.json; run python"):
        Checkpoint.read_record(tmp_path)
