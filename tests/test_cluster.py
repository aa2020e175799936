"""Distribution.py: any number of devices and processes trains as one does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny

from machine import cluster
from machine.errors import StorageError, UserError, WorkerError
from training.step import check_batch_size

WORKER = Path(__file__).resolve().parent / "worker.py"
TRAIN = [
    *("train", "--preset", "quickstart", "--width", "4", "--batch-size", "16", "--epochs", "2"),
    *("--valid-size", "32", "--mixup-alpha", "0.2", "--dropout-stack2", "0.1"),
    *("--optimizer", "sgd", "--learning-rate", "0.001", "--precision", "float32"),
    *("--l2", "0.01", "--ema-decay", "0.9", "--save-minutes", "0"),
]
SUMMATION = 1e-4  # of weights up to 2, after 36 steps: 3e-5 was seen; another batch makes 1e-2
SECONDS = 120


def free_ports(count):
    """Ports on which nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(*arguments, devices=1, end="", **environment):
    clean = {k: v for k, v in os.environ.items() if k != "TF_CONFIG" and "SLURM" not in k}
    return subprocess.Popen(
        [sys.executable, WORKER, str(devices), end, *TRAIN, *map(str, arguments)],
        env={**clean, **{name: str(value) for name, value in environment.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tf_config(hosts, index=0):
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


def start_workers(folders, ends=("",) * 4, weights=(), more=((),) * 4):
    """The processes of one job on loopback, each with its own folder; the first is the chief."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(len(folders))]
    jobs = []
    for index, folder in enumerate(folders):
        environment = {"TF_CONFIG": tf_config(hosts, index)}
        if weights:
            environment["WEIGHTS"] = weights[index]
        jobs.append(start("--save-dir", folder, *more[index], end=ends[index], **environment))
    return jobs


def finish(process, code=0):
    """Output and errors of a process that must end with this code."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, err
    return out, err


def digest(out):
    return re.search(r"^digest (\w{64})$", out, re.M)[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Weights and probabilities of a single process with a single device."""
    folder = tmp_path_factory.mktemp("alone")
    finish(start("--save-dir", folder / "run", WEIGHTS=folder / "weights.npz"))
    return np.load(folder / "weights.npz")


def assert_like_alone(path, alone):
    found = np.load(path)
    np.testing.assert_allclose(found["weights"], alone["weights"], rtol=0, atol=SUMMATION)
    np.testing.assert_allclose(found["probabilities"], alone["probabilities"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("devices", [2, 4])
def test_several_devices_train_and_predict_as_one_does(devices, alone, tmp_path):
    run, weights = tmp_path / "run", tmp_path / "weights.npz"
    _, err = finish(start("--save-dir", run, devices=devices, WEIGHTS=weights))
    assert err == ""
    assert_like_alone(weights, alone)
    hardware = json.loads((run / "run.json").read_text())["hardware"]
    assert (hardware["workers"], hardware["replicas"]) == (1, devices)


@pytest.fixture(scope="module")
def job(request, tmp_path_factory):
    """Of so many processes that trained together: folders, files of weights, and outputs."""
    parent, numbers = tmp_path_factory.mktemp("job"), range(request.param)
    folders = [parent / f"run{index}" for index in numbers]
    weights = [parent / f"weights{index}.npz" for index in numbers]
    outputs = [finish(worker) for worker in start_workers(folders, weights=weights)]
    return folders, weights, outputs


@pytest.mark.parametrize("job", [2, 4], indirect=True)
def test_several_processes_train_as_one_does_and_the_chief_alone_writes(job, alone):
    folders, weights, outputs = job
    workers = len(folders)
    assert [err for _, err in outputs] == [""] * workers
    assert len({digest(out) for out, _ in outputs}) == 1  # bit for bit
    for path in weights:
        assert_like_alone(path, alone)
    assert [folder.exists() for folder in folders] == [True] + [False] * (workers - 1)
    assert json.loads((folders[0] / "run.json").read_text())["hardware"]["workers"] == workers
    for out, _ in outputs[1:]:
        assert len(out.splitlines()) == 1  # its digest


@pytest.mark.parametrize("job", [2], indirect=True)
def test_a_job_that_was_told_to_stop_or_lost_a_worker_goes_on_to_the_same_bits(job, tmp_path):
    folders = [tmp_path / "run", tmp_path / "other"]
    chief, other = start_workers(folders, ends=("", "SIGTERM 5"))
    for _, err in (finish(chief, 75), finish(other, 75)):  # at the end of that call
        assert "stopped and saved after step 10; the same command goes on from there" in err

    chief, other = start_workers(folders, ends=("", "SIGKILL 7"))
    finish(other, -signal.SIGKILL)
    _, err = finish(chief, 9)
    assert len(err.splitlines()) == 1, err
    assert "found one that ended or cannot be reached" in err

    chief, other = start_workers(folders, ends=("SIGKILL 9", ""))
    finish(chief, -signal.SIGKILL)
    finish(other, 9)

    outputs = [finish(worker)[0] for worker in start_workers(folders)]
    assert {digest(out) for out in outputs} == {digest(out) for out, _ in job[2]}


@pytest.mark.parametrize("when", ["at the start", "at the end"])
def test_a_chief_that_cannot_write_tells_the_others(when, tmp_path):
    run = tmp_path / "run"
    if when == "at the start":
        run.write_text("")
    chief, other = start_workers([run, tmp_path / "other"])
    if when == "at the end":
        tiny.wait_for((run / ".lock").exists, chief)
        (run / "curves.png" / "in the way").mkdir(parents=True)
    assert "cannot write" in finish(chief, 6)[1]
    assert re.search("^error: the chief could not go on: cannot write", finish(other, 9)[1], re.M)


def test_the_others_are_told_if_the_save_that_they_wait_for_fails(tmp_path, monkeypatch):
    def fail(*_):
        raise StorageError("cannot write")

    told = []
    monkeypatch.setattr(cluster, "share", lambda strategy, data: told.append(data) or data)
    run = cluster.SharedRun(tf.distribute.get_strategy(), tmp_path / "run", {})
    monkeypatch.setattr(run._run, "save_state", fail)
    with pytest.raises(StorageError):
        run.save_state({}, {}, wait=True)
    assert [json.loads(data) for data in told] == [{"error": "cannot write"}]


def test_workers_that_were_told_different_things_do_not_begin(tmp_path):
    folders = [tmp_path / "run", tmp_path / "other"]
    chief, other = start_workers(folders, more=((), ("--width", "8")))
    _, err = finish(other, 5)
    assert err.startswith("error: expected the run of the chief, found other values: width: was 4")
    assert "found 1 that would not; what differs is in their own errors" in finish(chief, 9)[1]
    assert not folders[0].exists()


def test_who_waits_for_others_can_be_told_to_end(tmp_path):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    process = start("--save-dir", tmp_path / "run", TF_CONFIG=tf_config(hosts))
    tiny.wait_for(lambda: cluster._is_heard(hosts[0]), process)
    process.terminate()
    finish(process, -signal.SIGTERM)


def test_who_connects_to_one_that_does_not_answer_ends(tmp_path):
    own, other = free_ports(2)
    hosts = [f"127.0.0.1:{own}", f"127.0.0.1:{other}"]
    with socket.create_server(("127.0.0.1", other)):
        process = start("--save-dir", tmp_path / "run", TF_CONFIG=tf_config(hosts))
        _, err = finish(process, -signal.SIGALRM)
    assert re.fullmatch("error: expected to be connected .* within 15 s, found one that .*\n", err)


def test_workers_that_do_not_come_are_named(environment, monkeypatch, capfd):
    monkeypatch.setattr(cluster, "START_MINUTES", 0.002)
    monkeypatch.setattr(cluster, "QUIET_SECONDS", 0)
    own, late = (f"127.0.0.1:{port}" for port in free_ports(2))
    environment("TF_CONFIG", tf_config([own, late]))
    with pytest.raises(WorkerError, match=rf"within 0.002 minutes, found nobody at {late};"):
        cluster.make_strategy("auto")
    assert capfd.readouterr().err == f"waiting for workers at {late}\n"
    with (
        socket.create_server(("", int(own.rpartition(":")[2]))),
        pytest.raises(UserError, match=rf"^{own}: expected a free port .* in use"),
    ):
        cluster.make_strategy("auto")


def test_more_bytes_than_float32_can_count_are_shared(environment, monkeypatch):
    monkeypatch.setattr(cluster, "_has_workers", lambda strategy: True)
    monkeypatch.setattr(cluster, "is_chief", lambda strategy: True)
    monkeypatch.setattr(cluster, "devices_of", lambda strategy: ["CPU:0"])
    data = bytes(2**24) + b"."  # 2^24 + 1 rounds to 2^24
    assert cluster.share(tf.distribute.get_strategy(), data) == data


@pytest.mark.parametrize(
    ("batch_size", "replicas", "nearest"),
    [(15, 2, 14), (1, 2, 2), (17, 4, 16), (19, 4, 20), (3, 8, 8), (32, 5, 30), (33, 5, 35)],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does(
    batch_size, replicas, nearest
):
    with pytest.raises(ValueError, match=rf"found {batch_size}; the nearest is {nearest}$"):
        check_batch_size(batch_size, replicas)
    check_batch_size(nearest, replicas)


# The environment


@pytest.fixture
def environment(monkeypatch):
    for name in list(os.environ):
        if name == "TF_CONFIG" or name.startswith("SLURM"):
            monkeypatch.delenv(name)
    return monkeypatch.setenv


def test_one_device_and_no_cluster_is_the_default_strategy(environment):
    assert cluster.make_strategy("auto") is tf.distribute.get_strategy()
    with cluster.joining("one") as strategy:
        assert cluster.is_chief(strategy)
        assert cluster.describe(strategy) == {"workers": 1, "replicas": 1}
        assert cluster.share(strategy, b"all") == b"all"


def test_mirrored_can_be_asked_for(environment):
    strategy = cluster.make_strategy("mirrored")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize("name", ["multiworker", "best"])
def test_what_cannot_be_is_refused(environment, name):
    with pytest.raises(UserError, match=r"^strategy: expected .*, found"):
        cluster.make_strategy(name)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "found Expecting"),
        ("[]", "found list indices"),
        ('{"cluster": [], "task": []}', "found 'list' object has no attribute"),
        ("{}", "found no 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "found no 'task'"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "the jobs ps"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "the task"),
        (
            '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
            "the address 'a'",
        ),
        (
            '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
            "the address 'a'",
        ),
        (
            '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
            "the address 1",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            "the address 'a:1', which is no host:port or stands twice",
        ),
        (
            '{"cluster": {"worker": ["a:65536"]}, "task": {"type": "worker", "index": 0}}',
            "the address 'a:65536', which is no host:port",
        ),
        (
            '{"cluster": {"worker": ["a:0"]}, "task": {"type": "worker", "index": 0}}',
            "the address 'a:0', which is no host:port",
        ),
        (
            '{"cluster": {"worker": ["http://a:1"]}, "task": {"type": "worker", "index": 0}}',
            "the address 'http://a:1', which is no host:port",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0.7}}',
            "found invalid literal",
        ),
    ],
)
def test_a_wrong_tf_config_is_one_clear_line(environment, text, found):
    environment("TF_CONFIG", text)
    with pytest.raises(UserError, match=rf"^TF_CONFIG: expected .*{found}"):
        cluster.make_strategy("auto")


def slurm(environment, **changes):
    """The variables of a step of four tasks on two nodes, as ``srun`` sets them."""
    variables = {
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURMD_NODENAME": "node2",
    }
    for name, value in {**variables, **changes}.items():
        environment(name, value)
    return cluster._find_cluster()


def test_a_step_of_slurm_is_a_cluster(environment):
    cluster = slurm(environment)
    hosts = ["node1:8888", "node1:8889", "node2:8888", "node2:8889"]
    assert cluster.cluster_spec().as_dict() == {"worker": hosts}
    assert (cluster.task_type, cluster.task_id) == ("worker", 2)
    assert cluster.num_accelerators() == {"GPU": 0}


def test_a_task_of_slurm_has_the_gpus_that_it_sees(environment, monkeypatch):
    gpus = ["gpu"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert slurm(environment).num_accelerators() == {"GPU": 1}
    gpus.append("another")
    with pytest.raises(UserError, match=r"found 2 tasks on node2 that see 2; use srun"):
        slurm(environment)
    alone = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    cluster = slurm(environment, SLURM_PROCID="1", **alone)
    assert cluster.num_accelerators() == {"GPU": 2}


def test_a_single_task_of_slurm_is_no_cluster(environment):
    assert slurm(environment, SLURM_STEP_NUM_TASKS="1") is None


def test_slurms_own_order_of_nodes_must_be_the_resolvers(environment):
    with pytest.raises(UserError, match=r"expected task 2 on node2, found it on node9"):
        slurm(environment, SLURMD_NODENAME="node9")


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_STEP_TASKS_PER_NODE", "what"), ("SLURM_PROCID", "4")]
)
def test_wrong_variables_of_slurm_are_one_clear_line(environment, name, value):
    with pytest.raises(UserError, match=r"^Slurm's variables: expected those of a step, found"):
        slurm(environment, **{name: value})
