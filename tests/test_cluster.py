"""machine/cluster.py and runs/shared.py: any number of devices and processes trains as one does."""

import json
import re
import shutil
import signal
import socket

import numpy as np
import processes
import pytest
import tensorflow as tf
import worker

from machine import cluster
from machine.errors import UserError
from training.step import check_batch_size

TRAIN = [
    *("train", "--preset", "baseline", "--dataset", "shapes", "--depth", "8", "--width", "4"),
    *("--batch-size", "16", "--epochs", "2"),
    *("--valid-size", "32", "--mixup-alpha", "0.2", "--dropout-stack2", "0.1"),
    *("--optimizer", "sgd", "--learning-rate", "0.0005", "--precision", "float32"),
    *("--l2", "0.01", "--save-minutes", "0"),
]
SUMMATION = 1e-4  # of weights up to 2, after 36 steps: 1e-6 was seen, and 1e-4 at twice the rate


def free_ports(count):
    """Ports on which nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def tf_config(hosts, index=0):
    return json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}})


class Process(processes.Process):
    """``main.py train`` in a process of its own: see ``worker.run`` for the options."""

    def __init__(self, output, folder, *arguments, environment=(), **options):
        self.folder = folder
        command = [*TRAIN, "--save-dir", str(folder), *arguments]
        super().__init__(output, worker.run, command, output, dict(environment), **options)

    def weights(self):
        return np.load(self.output / "weights.npz")

    def digest(self):
        return str(self.weights()["digest"])


def start_job(parent, name="job", ends=(None, None), more=((), ()), run="run"):
    """The two processes of one job on loopback, each with its own folder; the first is the chief.

    Jobs with the same parent go on from each other's state.
    """
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [
        Process(
            parent / f"{name}-{index}",
            parent / (run if index == 0 else "other"),
            *more[index],
            environment={"TF_CONFIG": tf_config(hosts, index)},
            end=ends[index],
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By number of devices, a process without a cluster that has trained."""
    parent = tmp_path_factory.mktemp("processes")
    numbers = {
        devices: Process(parent / f"output{devices}", parent / f"run{devices}", devices=devices)
        for devices in (1, 2)
    }
    for process in numbers.values():
        assert process.finish() == ""
    return numbers


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Two workers that have trained together."""
    workers = start_job(tmp_path_factory.mktemp("job"))
    for one in workers:
        assert re.fullmatch("waiting for .*, at most 1 minutes\n", one.finish())
    return workers


def assert_like_one(process, alone):
    found, expected = process.weights(), alone[1].weights()
    np.testing.assert_allclose(found["weights"], expected["weights"], rtol=0, atol=SUMMATION)
    np.testing.assert_allclose(found["probabilities"], expected["probabilities"], rtol=0, atol=1e-4)


def hardware(process):
    found = json.loads((process.folder / "run.json").read_text())["hardware"]
    return found["workers"], found["replicas"]


def test_several_devices_train_and_predict_as_one_does(alone):
    assert_like_one(alone[2], alone)
    assert hardware(alone[2]) == (1, 2)


def test_several_processes_train_as_one_does_and_the_chief_alone_writes(job, alone):
    chief, other = job
    assert_like_one(chief, alone)
    assert chief.digest() == other.digest()  # bit for bit
    assert hardware(chief) == (2, 2)
    assert chief.folder.exists()
    assert not other.folder.exists()
    assert other.read("out") == ""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that one of two workers was told to stop."""
    parent = tmp_path_factory.mktemp("stopped")
    for one in start_job(parent, ends=(None, ("SIGTERM", 5))):
        said = "stopped and saved after step 10; the same command goes on from there"
        assert said in one.finish(75)
    return parent / "run"


def test_a_job_that_was_told_to_stop_or_lost_a_worker_goes_on_to_the_same_bits(
    job, stopped, tmp_path
):
    shutil.copytree(stopped, tmp_path / "run")
    chief, other = start_job(tmp_path, "lost", ends=(None, ("SIGKILL", 4)))
    other.finish(-signal.SIGKILL)
    assert "found one that did not come, ended, or cannot be reached" in chief.finish(9)

    workers = start_job(tmp_path, "whole")
    for one in workers:
        one.finish()
    assert {one.digest() for one in workers} == {job[0].digest()}


def test_a_run_of_several_workers_goes_on_with_one_and_says_so(stopped, alone, tmp_path):
    shutil.copytree(stopped, tmp_path / "run")
    one = Process(tmp_path / "output", tmp_path / "run")
    changes = ["hardware replicas: was 2, is 1", "hardware workers: was 2, is 1"]
    assert one.finish() == f"warning: bits may differ: {'; '.join(changes)}\n"
    assert json.loads((one.folder / "run.json").read_text())["machine_changes"] == changes
    assert_like_one(one, alone)


def test_workers_that_were_told_different_things_do_not_begin(tmp_path):
    chief, other = start_job(tmp_path, more=((), ("--width", "8")))
    assert "found other values: width: was 4, is 8" in other.finish(5)
    assert "another worker could not go on" in chief.finish(9)
    assert not chief.folder.exists()


def test_a_chief_that_cannot_write_tells_the_others(tmp_path):
    (tmp_path / "file").write_text("")
    chief, other = start_job(tmp_path, run="file/run")
    assert "cannot write" in chief.finish(6)
    assert re.search("^error: the chief could not go on: .*cannot write", other.finish(9), re.M)


def test_workers_share_what_they_must_until_the_chief_is_lost(tmp_path):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = []
    for index in range(2):
        output, environment = tmp_path / str(index), {"TF_CONFIG": tf_config(hosts, index)}
        workers.append(processes.Process(output, worker.talk, output, environment))
    for one, code in zip(workers, (-signal.SIGKILL, 0), strict=True):
        one.finish(code)
    chief, other = (json.loads((tmp_path / f"{i}/talk.json").read_text()) for i in range(2))
    alike = {
        "shared": True,
        "nothing": True,
        "any": [False, True],
        "in_chief": [1],
        "described": [{"workers": 2, "replicas": 2}, 1],
    }
    assert chief == alike | {"in_chief failed": "StorageError: no place"}
    assert other == alike | {"in_chief failed": "WorkerError: the chief could not go on: no place"}


def test_workers_that_wait_say_so_and_give_up(tmp_path):
    def start(index, **options):
        own, other = free_ports(2)
        hosts = [f"127.0.0.1:{port}" for port in ((own, other) if index == 0 else (other, own))]
        environment = {"TF_CONFIG": tf_config(hosts, index)}
        output = tmp_path / f"{index}{len(started)}"
        started.append(Process(output, tmp_path / "run", environment=environment, **options))
        return started[-1], f"waiting for 127.0.0.1:{other}, at most "

    started = []
    waits = [start(index, start_minutes=0.02) for index in (0, 1)]
    told_to_end, words = start(0)
    told_to_end.wait_for(lambda: words in told_to_end.read("err"))
    told_to_end.send(signal.SIGINT)
    told_to_end.finish(-signal.SIGINT)
    for process, words in waits:
        said = process.finish(9)
        assert said.startswith(f"{words}0.02 minutes\n")
        assert "found one that did not come" in said
    assert not (tmp_path / "run").exists()


def test_a_port_that_is_taken_is_one_clear_line(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        own = f"127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("TF_CONFIG", tf_config([own, "127.0.0.1:1"]))
        with pytest.raises(UserError, match=rf"^{own}: expected a free port .* in use"):
            cluster.make_strategy("auto")


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


def test_one_device_and_no_cluster_is_the_default_strategy():
    assert cluster.make_strategy("auto") is tf.distribute.get_strategy()
    with cluster.joining("one") as strategy:
        assert cluster.is_chief(strategy)
        assert cluster.describe(strategy) == {"workers": 1, "replicas": 1}
        assert cluster.broadcast(strategy, b"all") == b"all"


def test_mirrored_can_be_asked_for():
    strategy = cluster.make_strategy("mirrored")
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == 1


def test_workers_without_a_cluster_are_refused():
    with pytest.raises(UserError, match=r"^strategy: expected TF_CONFIG, .*, found neither"):
        cluster.make_strategy("multiworker")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "found Expecting"),
        ('{"cluster": [], "task": []}', "found 'list' object has no attribute"),
        ("{}", "found no 'cluster'"),
        ('{"cluster": {"worker": ["a:1"]}}', "found no 'task'"),
        ('{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}', "the jobs ps"),
        ('{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}', "the task"),
        (
            '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
            "found 'a'",
        ),
        (
            '{"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}',
            "found 'a:1', which is not host:port, or appears twice",
        ),
        (
            '{"cluster": {"worker": ["a:65536"]}, "task": {"type": "worker", "index": 0}}',
            "found 'a:65536', which is not host:port",
        ),
        (
            '{"cluster": {"worker": ["http://a:1"]}, "task": {"type": "worker", "index": 0}}',
            "found 'http://a:1', which is not host:port",
        ),
        (
            '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 0.7}}',
            "found invalid literal",
        ),
    ],
)
def test_a_wrong_tf_config_is_one_clear_line(monkeypatch, text, found):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(UserError, match=rf"^TF_CONFIG: expected .*{found}"):
        cluster.make_strategy("auto")


def slurm(monkeypatch, **changes):
    """The variables of a step of four tasks on two nodes, as ``srun`` sets them."""
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_ID": "1",
        "SLURM_PROCID": "2",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
        "SLURMD_NODENAME": "node2",
    }
    for name, value in {**variables, **changes}.items():
        monkeypatch.setenv(name, value)
    return cluster.find_cluster()


def test_a_step_of_slurm_is_a_cluster(monkeypatch):
    cluster = slurm(monkeypatch)
    # From the numbers of the job and of the step: 20000 + 16 * ((31 * 7 + 1) % 625).
    hosts = ["node1:23488", "node1:23489", "node2:23488", "node2:23489"]
    assert cluster.cluster_spec().as_dict() == {"worker": hosts}
    assert (cluster.task_type, cluster.task_id) == ("worker", 2)
    assert cluster.num_accelerators() == {"GPU": 0}


def test_a_task_of_slurm_has_the_gpus_that_it_sees(monkeypatch):
    gpus = ["gpu"]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus)
    assert slurm(monkeypatch).num_accelerators() == {"GPU": 1}
    gpus.append("another")
    with pytest.raises(UserError, match=r"found 2 tasks on node2 that see 2; use srun"):
        slurm(monkeypatch)
    alone = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)"}
    cluster = slurm(monkeypatch, SLURM_PROCID="1", **alone)
    assert cluster.num_accelerators() == {"GPU": 2}


def test_a_single_task_of_slurm_is_no_cluster(monkeypatch):
    assert slurm(monkeypatch, SLURM_STEP_NUM_TASKS="1") is None


def test_slurms_own_order_of_nodes_must_be_the_resolvers(monkeypatch):
    with pytest.raises(UserError, match=r"expected task 2 on node2, found it on node9"):
        slurm(monkeypatch, SLURMD_NODENAME="node9")


@pytest.mark.parametrize(
    ("name", "value"), [("SLURM_STEP_TASKS_PER_NODE", "what"), ("SLURM_PROCID", "4")]
)
def test_wrong_variables_of_slurm_are_one_clear_line(monkeypatch, name, value):
    with pytest.raises(UserError, match=r"^Slurm's variables: expected those of a step, found"):
        slurm(monkeypatch, **{name: value})
