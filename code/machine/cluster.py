"""Devices and processes that train together: a ``tf.distribute`` strategy, and who writes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from Configure import STRATEGIES
from machine.errors import UserError, WorkerError

START_MINUTES = 10  # for all workers of a job to have come
QUIET_SECONDS = 5  # until those that have not come yet are named
CONNECT_SECONDS = 120  # for TensorFlow to connect them, which takes one
_BACKLOG = 1024  # workers that knock while this one looks for others
_OWN_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError)
_CLUSTER = "TF_CONFIG, or Slurm's variables of a step with more than one task"
_STUCK = (
    "error: expected to be connected to the other workers within {} s, found one that ended or "
    "does not answer; start all of them again"
)
# A process that ends its parent with a line, unless one of them has ended before.
_WATCH = """\
import os, signal, sys, time
parent, seconds, line = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
deadline = time.monotonic() + seconds
while os.getppid() == parent and time.monotonic() < deadline:
    time.sleep(0.1)
if os.getppid() == parent:
    print(line, file=sys.stderr, flush=True)
    os.kill(parent, signal.SIGALRM)
"""


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy that the environment asks for, once every worker of the job is there.

    Call it in the main thread and before any other use of a device. A cluster is described by
    ``TF_CONFIG``, as TensorFlow's own programs read it, or by the variables that ``srun`` sets.

    Args:
        name: "auto": "multiworker" if the environment has a cluster, else "mirrored" if this
            process has several devices, else "one"; or one of these.

    Raises:
        UserError: no such strategy, or a cluster that is missing or described wrongly.
        WorkerError: a worker did not come.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy: expected one of {', '.join(STRATEGIES)}, found {name!r}")
    cluster = _cluster_for(name)
    if cluster is not None:
        _wait_for_workers(cluster)
        return _connect(cluster)
    if name == "multiworker":
        raise UserError(f"strategy: expected {_CLUSTER}, found neither; start it on each machine")
    if name == "one":
        return tf.distribute.get_strategy()
    devices = local_devices()
    if name == "mirrored" or len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def local_devices() -> list[str]:
    """Names of the devices that compute, of a process without a cluster: GPUs, else CPUs."""
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def devices_of(strategy: tf.distribute.Strategy) -> list[str]:
    """Names of the devices of this process, whatever it does with them."""
    return list(strategy.extended.worker_devices) if has_workers(strategy) else local_devices()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """If this process is the one that writes files and speaks."""
    cluster = strategy.cluster_resolver
    if not has_workers(strategy):
        return True
    chiefs = "chief" if "chief" in cluster.cluster_spec().jobs else "worker"
    return (cluster.task_type, cluster.task_id) == (chiefs, 0)


def describe(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Number of processes and of replicas, for the record of a run."""
    workers = 1
    if has_workers(strategy):
        workers = sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))
    return {"workers": workers, "replicas": strategy.num_replicas_in_sync}


def share(strategy: tf.distribute.Strategy, data: bytes) -> bytes:
    """The chief's data, in every process; the others' is ignored.

    Collective: every process of the job must call it.
    """
    if not has_workers(strategy):
        return data
    length = int.from_bytes(_share(strategy, len(data).to_bytes(8, "little"), 8), "little")
    # TensorFlow's collectives crash on an empty array.
    return _share(strategy, data, length) if length else b""


def any_process(strategy: tf.distribute.Strategy, told: bool) -> bool:
    """If any process of the job was told something.

    Collective: every process of the job must call it.
    """
    if not has_workers(strategy):
        return told
    return bool(sum_over_processes(strategy, np.float32([told]))[0])


@contextlib.contextmanager
def joining(name: str = "auto"):
    """The strategy of ``make_strategy``, and a clear error for what goes wrong between workers.

    Raises:
        UserError: see ``make_strategy``.
        WorkerError: see ``make_strategy``; another worker ended or cannot be reached any more.
    """
    try:
        yield make_strategy(name)
    except tf.errors.OpError as error:
        if _cluster_for(name) is None or isinstance(error, _OWN_ERRORS):
            raise
        cause = " ".join(error.message.split())[:200]
        raise WorkerError(
            "expected every worker of the job to go on, found one that ended or cannot be reached; "
            "start all of them again: the run goes on from its last saved state, if it has one "
            f"({type(error).__name__}: {cause})"
        ) from error


def has_workers(strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _share(strategy, data: bytes, length: int) -> bytes:
    # Bytes travel as float32, which every kind of device and collective adds up exactly.
    padded = np.zeros(length, np.float32)
    if is_chief(strategy):
        padded[:] = np.frombuffer(data, np.uint8)
    return sum_over_processes(strategy, padded).astype(np.uint8).tobytes()


def sum_over_processes(strategy, vector: np.ndarray) -> np.ndarray:
    """The sum of a float32 vector that is not empty, in every process."""
    results = _compiled_sum(strategy)(tf.constant(vector))
    return strategy.experimental_local_results(results)[0].numpy()


@functools.cache
def _compiled_sum(strategy):
    replicas = len(devices_of(strategy))

    def in_replica(vector):
        context = tf.distribute.get_replica_context()
        # A process counts once, however many replicas it has.
        first = tf.equal(context.replica_id_in_sync_group % replicas, 0)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, vector * tf.cast(first, tf.float32))

    return tf.function(
        lambda vector: strategy.run(in_replica, (vector,)),
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )


def _cluster_for(strategy: str):
    """The cluster that a strategy of this name trains in, or None."""
    return _find_cluster() if strategy in ("auto", "multiworker") else None


def _find_cluster():
    """TensorFlow's resolver of the cluster that the environment describes, or None."""
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _find_slurm_cluster()
    return None


def _wait_for_workers(cluster) -> None:
    """Listen where TensorFlow will, until every other worker of the cluster listens too."""
    jobs = cluster.cluster_spec().as_dict().values()
    own = cluster.cluster_spec().task_address(cluster.task_type, cluster.task_id)
    missing = [address for job in jobs for address in job if address != own]
    began, told = time.monotonic(), False
    with _listening(own):
        while missing := [address for address in missing if not _is_heard(address)]:
            waited = time.monotonic() - began
            if waited > QUIET_SECONDS and not told:
                told = True
                print(f"waiting for workers at {', '.join(missing)}", file=sys.stderr, flush=True)
            if waited > 60 * START_MINUTES:
                raise WorkerError(
                    f"expected every worker of the job within {START_MINUTES} minutes, found "
                    f"nobody at {', '.join(missing)}; start them all, and look if they reach each "
                    "other"
                )
            time.sleep(0.1)


def _connect(cluster) -> tf.distribute.Strategy:
    """TensorFlow's strategy for workers that are all there."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # For a worker that ends in this very moment TensorFlow waits without end, with Python's lock
    # held: only another process can end this one then, and only the kernel hears SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = map(str, (os.getpid(), CONNECT_SECONDS, _STUCK.format(CONNECT_SECONDS)))
    watch = subprocess.Popen([sys.executable, "-c", _WATCH, *arguments], start_new_session=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
    finally:
        watch.kill()
        watch.wait()
        for number, handler in handlers.items():  # TensorFlow took SIGTERM, and does nothing
            signal.signal(number, handler)


def _listening(address: str):
    """A socket at the port of this worker's address."""
    place = ("", int(address.rpartition(":")[2]))
    try:
        with contextlib.suppress(OSError, ValueError):  # a machine without IPv6
            return socket.create_server(
                place, family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
            )
        return socket.create_server(place, backlog=_BACKLOG)
    except OSError as error:
        raise UserError(
            f"{address}: expected a free port of this machine, found {error}; end what "
            "listens there, or name another port in TF_CONFIG"
        ) from error


def _is_heard(address: str) -> bool:
    """If somebody listens at the address."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except (OSError, UnicodeError):  # the latter from a name that can be none
        return False
    return True


def _check_tf_config(text: str) -> None:
    """Raise ``UserError`` unless TF_CONFIG names a cluster of workers and this task in it."""
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        if not set(jobs) <= {"chief", "worker"}:
            raise ValueError(f"the jobs {', '.join(jobs)}")
        addresses = [address for job in jobs.values() for address in job]
        for address in addresses:
            port = re.fullmatch(r"[^\s/]+:(\d+)", str(address))
            if not port or not 0 < int(port[1]) <= 65535 or addresses.count(address) > 1:
                raise ValueError(f"the address {address!r}, which is no host:port or stands twice")
        if not 0 <= int(str(task["index"])) < len(jobs[task["type"]]):
            raise ValueError(f"the task {task} that is not in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}, found {found}'
        ) from error


def _find_slurm_cluster():
    """The step's tasks as TensorFlow's own resolver finds them, each with the GPUs that it sees."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    try:
        # The resolver would hand out GPUs as if Slurm had not, and when it is too late for that.
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            gpus_per_node=int(os.environ["SLURM_STEP_NUM_TASKS"]),
            gpus_per_task=1,
            auto_set_gpu=False,
        )
        workers = slurm.cluster_spec()
        address = workers.task_address(slurm.task_type, slurm.task_id)
    except (RuntimeError, ValueError, LookupError) as error:
        raise UserError(f"Slurm's variables: expected those of a step, found {error}") from error
    host = address.rpartition(":")[0]
    node = os.environ.get("SLURMD_NODENAME", host)
    if node != host:
        # The resolver sorts hosts by name, Slurm numbers its tasks in its own order.
        raise UserError(
            f"Slurm's variables: expected task {slurm.task_id} on {host}, found it on {node}; use "
            "TF_CONFIG, or nodes whose order by name is Slurm's"
        )
    neighbours = sum(one.rpartition(":")[0] == host for one in workers.job_tasks("worker"))
    if neighbours > 1 and gpus > 1:
        raise UserError(
            f"Slurm's variables: expected one task on each node, or tasks that see one GPU each, "
            f"found {neighbours} tasks on {host} that see {gpus}; use srun --ntasks-per-node=1, or "
            "--gpus-per-task=1"
        )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        workers, task_type=slurm.task_type, task_id=slurm.task_id, num_accelerators={"GPU": gpus}
    )
