"""runs/record.py: run.json is complete, and a difference means what its table says."""

import pytest
import tensorflow as tf
from saved import FINISHED, RECORD, SHIPPED, changed

import Configure
from machine.errors import RunError
from runs.record import (
    DESCRIBE_MACHINE,
    IDENTIFY_FINISHED,
    IDENTIFY_UNFINISHED,
    KEYS,
    RECORD_FILE,
    differences,
    read_record,
    write_record,
)
from runs.shared import require_same


def test_a_record_comes_back(tmp_path):
    write_record(tmp_path, FINISHED)
    assert read_record(tmp_path) == FINISHED
    assert FINISHED.keys() == KEYS.keys() - {"init_from", "seen_test_images"}


@pytest.mark.parametrize("name", FINISHED)
def test_every_key_must_be_there_and_of_its_type(tmp_path, name):
    for value in (None, [5]):
        write_record(tmp_path, {**FINISHED, name: value})
        with pytest.raises(RunError, match=f"run.json: damaged: no {name}"):
            read_record(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_configs__depth": 9},
        {"model_configs__depth": 10**9},
        {"model_configs__width": "wide"},
        {"data_digests": {"train": "a"}},
        {"training_configs": {}},
        {"training_configs__valid_size": "5000"},
    ],
)
def test_a_record_of_no_network_is_damaged(tmp_path, changes):
    write_record(tmp_path, changed(FINISHED, **changes))
    with pytest.raises(RunError, match="damaged"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[1]", b"{}", b"\xff\xfe", b"[" * 100_000],
)
def test_a_broken_record_is_refused(tmp_path, content):
    (tmp_path / RECORD_FILE).write_bytes(content)
    with pytest.raises(RunError, match=r"run.json: damaged"):
        read_record(tmp_path)


def test_no_record_is_an_error_with_the_remedy(tmp_path):
    with pytest.raises(RunError, match=r"found no run.json; run python main.py train"):
        read_record(tmp_path)


def test_every_difference_is_named():
    other = changed(training_configs__learning_rate=0.2, data_digests__train="z", dataset="cifar10")
    assert differences(RECORD, other, IDENTIFY_UNFINISHED) == [
        "dataset: was shapes, is cifar10",
        "data_digests train: was a, is z",
        "learning_rate: was 0.1, is 0.2",
    ]


@pytest.mark.parametrize(
    ("changes", "unfinished", "finished", "machine"),
    [
        ({"versions__tensorflow": "2.22.0"}, True, False, False),
        ({"hardware__cores": 4}, False, False, True),
        ({"precision__used": "bfloat16"}, False, True, True),
        ({"precision__reason": "another"}, False, False, False),
        ({"model_configs__precision": "bfloat16"}, False, False, False),
        ({"model_configs__seed": 5}, True, True, False),
        ({"preset": "another"}, False, False, False),
    ],
)
def test_what_a_difference_means(changes, unfinished, finished, machine):
    for keys, different in (
        (IDENTIFY_UNFINISHED, unfinished),
        (IDENTIFY_FINISHED, finished),
        (DESCRIBE_MACHINE, machine),
    ):
        assert bool(differences(RECORD, changed(**changes), keys)) == different


def test_more_epochs_extend_a_constant_rate_and_size_and_nothing_else():
    constant = changed(training_configs__schedule="constant")
    small = changed(constant, training_configs__small_share=0.5)
    for record, epochs, same in (
        *((constant, 3, True), (constant, 1, False)),
        *((RECORD, 3, False), (small, 3, False)),
    ):
        other = changed(record, training_configs__epochs=epochs)
        assert (differences(record, other, IDENTIFY_UNFINISHED) == []) == same


@pytest.mark.parametrize(
    "changes",
    [
        {"precision__used": "bfloat16"},
        {"model_configs__precision": "float32"},
        {"training_configs__epochs": 3},
        {"flags": {"fresh": True}},
    ],
)
def test_a_worker_must_train_as_its_chief_does(monkeypatch, changes):
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr("machine.cluster.in_chief", lambda strategy, _: RECORD)
    require_same(strategy, changed(precision__reason="the processor has avx512_bf16"))
    with pytest.raises(RunError, match=r"^expected the run of the chief, found other values"):
        require_same(strategy, changed(**changes))


def test_a_run_of_before_a_key_was_there_is_one_with_its_default(tmp_path):
    old = changed(FINISHED)
    del old["model_configs"]["seed"], old["training_configs"]["cutout"]
    default = changed(FINISHED, model_configs__seed=0, training_configs__cutout=0)
    assert differences(old, default, IDENTIFY_UNFINISHED) == []
    other = changed(default, training_configs__cutout=8)
    assert differences(old, other, IDENTIFY_FINISHED) == ["cutout: was 0, is 8"]
    write_record(tmp_path, old)
    assert read_record(tmp_path) == default


def test_a_key_that_is_gone_since_changes_nothing_if_it_was_off(tmp_path):
    off, on = (changed(FINISHED, training_configs__gone=value) for value in (0.0, 0.5))
    assert differences(off, FINISHED, IDENTIFY_FINISHED) == []
    assert differences(on, FINISHED, IDENTIFY_FINISHED) == ["gone: was 0.5, is None"]
    write_record(tmp_path, off)
    assert read_record(tmp_path) == FINISHED


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_run_is_known_again_by_its_command(name):
    from main import SAVED_MODELS

    wanted = Configure.configure(name, {})
    asked = dict(zip(("model_configs", "training_configs"), wanted, strict=True))
    assert differences(read_record(SAVED_MODELS / name), asked, tuple(asked)) == []
