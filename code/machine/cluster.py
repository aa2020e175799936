"""Devices and processes that train together: a ``tf.distribute`` strategy, and what they share."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from machine import processor
from machine.errors import UserError, WorkerError

START_MINUTES = 10  # for all workers of a job to have come
_OWN_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError)


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """Make the strategy that the environment asks for, once every worker of the job has come.

    Call it before any other use of a device. A cluster is described by ``TF_CONFIG``, as
    TensorFlow's own programs read it, or by the variables that ``srun`` sets.

    Args:
        name: of ``Configure.STRATEGIES``: "auto" is "multiworker" if the environment has a
            cluster, else "mirrored" if this process has several devices, else "one".

    Raises:
        UserError: a cluster that is missing or described wrongly.
        tf.errors.OpError: a worker did not come; ``joining`` explains it.
    """
    if (cluster := find_cluster(name)) is not None:
        return _connect(cluster)
    if name == "multiworker":
        raise UserError(
            "strategy: expected TF_CONFIG, or Slurm's variables of a step with more than one task, "
            "found neither; start it on each machine"
        )
    devices = _local_devices()
    if name == "mirrored" or (name == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


@contextlib.contextmanager
def joining(name: str = "auto") -> Iterator[tf.distribute.Strategy]:
    """Give the strategy of ``make_strategy``, and a clear error for what breaks between workers.

    Raises:
        UserError: see ``make_strategy``.
        WorkerError: another worker did not come, ended, or cannot be reached any more.
    """
    try:
        yield make_strategy(name)
    except tf.errors.OpError as error:
        if find_cluster(name) is None or isinstance(error, _OWN_ERRORS):
            raise
        # What stands before it is where the graph was made.
        parts = error.message.split("\n\n")
        cause = [p for p in parts if not p.lstrip().startswith(("Graph", "Detected", "File"))]
        cause = " ".join(" ".join(cause).split())[:400]
        raise WorkerError(
            "expected every worker of the job, found one that did not come, ended, or cannot be "
            "reached; start all of them again: the run goes on from its last saved state, if it "
            f"has one ({type(error).__name__}: {cause})"
        ) from error


def find_cluster(name: str = "auto") -> tf.distribute.cluster_resolver.ClusterResolver | None:
    """Find the cluster that a strategy of this name trains in; None if there is none.

    Raises:
        UserError: the environment describes it wrongly.
    """
    if name not in ("auto", "multiworker"):
        return None
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _slurm_cluster()
    return None


def devices_of(strategy: tf.distribute.Strategy) -> list[str]:
    """Names of this process's devices."""
    return list(strategy.extended.worker_devices) if _has_workers(strategy) else _local_devices()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """If this process is the one that writes files and speaks."""
    return strategy.extended.should_checkpoint


def describe(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Number of processes and of replicas, for the record of a run."""
    replicas, workers = strategy.num_replicas_in_sync, 1
    if _has_workers(strategy):
        workers = replicas // len(strategy.extended.worker_devices)
    return {"workers": workers, "replicas": replicas}


def broadcast(strategy: tf.distribute.Strategy, data: bytes) -> bytes:
    """Give the chief's data to every process; the others' is ignored.

    Collective: every process of the job must call it.
    """
    if not _has_workers(strategy):
        return data
    length = int.from_bytes(_broadcast(strategy, len(data).to_bytes(8, "little"), 8), "little")
    # TensorFlow's collectives crash on an empty array.
    return _broadcast(strategy, data, length) if length else b""


def any_process(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """If the flag is set in any process.

    Collective: every process of the job must call it.
    """
    return bool(_sum(strategy, np.float32([flag]))[0]) if _has_workers(strategy) else flag


def in_chief(strategy: tf.distribute.Strategy, work: Callable[[], Any]) -> Any:
    """Let the chief do something; the others wait for it.

    Collective: every process of the job must call it.

    Args:
        strategy: of ``make_strategy``.
        work: called in the chief only.

    Returns:
        What ``work`` gives, which must be JSON-serializable, in every process.

    Raises:
        UserError: of ``work``, in the chief.
        WorkerError: the chief met one, in the others.
    """
    answer, failure = {}, None
    if is_chief(strategy):
        try:
            answer = {"result": work()}
        except UserError as error:
            answer, failure = {"error": str(error)}, error
    answer = json.loads(broadcast(strategy, json.dumps(answer).encode()))
    if "error" in answer:
        raise failure or WorkerError(f"the chief could not go on: {answer['error']}")
    return answer["result"]


def _local_devices() -> list[str]:
    kind = "GPU" if processor.count_gpus() else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def _has_workers(strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _broadcast(strategy, data: bytes, length: int) -> bytes:
    # Bytes travel as float32, which every kind of device and collective adds up exactly.
    padded = np.zeros(length, np.float32)
    if is_chief(strategy):
        padded[:] = np.frombuffer(data, np.uint8)
    return _sum(strategy, padded).astype(np.uint8).tobytes()


def _sum(strategy, vector: np.ndarray) -> np.ndarray:
    """Add up the float32 vectors of all processes, which are not empty."""
    replicas = len(strategy.extended.worker_devices)
    values = strategy.experimental_distribute_values_from_function(
        # A process counts once, however many replicas it has.
        lambda context: tf.constant(vector * (context.replica_id_in_sync_group % replicas == 0))
    )
    return strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None).numpy()


def _connect(cluster) -> tf.distribute.Strategy:
    """TensorFlow's strategy, whose wait for the other workers is bounded."""
    workers = cluster.cluster_spec()
    own = workers.task_address(cluster.task_type, cluster.task_id)
    _require_free_port(own)
    _limit_registration(workers)
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        # TensorFlow waits with Python's lock held: only the kernel hears SIGINT meanwhile.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    others = [address for job in workers.as_dict().values() for address in job if address != own]
    if others:
        line = f"waiting for {', '.join(others)}, at most {START_MINUTES} minutes"
        print(line, file=sys.stderr, flush=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
    finally:
        for number, handler in handlers.items():  # TensorFlow took SIGTERM, and does nothing
            signal.signal(number, handler)


def _require_free_port(address: str) -> None:
    try:
        socket.create_server(("", int(address.rpartition(":")[2]))).close()
    except OSError as error:
        raise UserError(
            f"{address}: expected a free port of this machine, found {error}; name another one in "
            "TF_CONFIG; under Slurm start the step again: each takes other ports"
        ) from error


def _limit_registration(workers) -> None:
    """Have TensorFlow give up unless all workers register in time; by default it waits on.

    ``CoordinationServiceConfig`` has no public function in TensorFlow 2.21;
    ``MultiWorkerMirroredStrategy`` keeps to what is set before it.
    """
    from tensorflow.python.eager import context

    jobs = tf.compat.v1.ConfigProto().experimental.coordination_config.coordinated_job_list
    for job in workers.jobs:
        jobs.add(name=job, num_tasks=workers.num_tasks(job))
    context.context().configure_coordination_service(
        "standalone",
        service_leader=f"/job:{'chief' if 'chief' in workers.jobs else 'worker'}/task:0",
        cluster_register_timeout_in_ms=int(60_000 * START_MINUTES),
        coordinated_jobs=list(jobs),
    )
    context.context().coordination_service.cluster_register_with_barrier = True


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
                raise ValueError(f"{address!r}, which is not host:port, or appears twice")
        if not 0 <= int(str(task["index"])) < len(jobs[task["type"]]):
            raise ValueError(f"the task {task} that is not in the cluster")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}, found {found}'
        ) from error


def _slurm_cluster():
    """The step's tasks as TensorFlow's own resolver finds them, each with the GPUs that it sees."""
    gpus = processor.count_gpus()
    try:
        job, step = (int(os.environ.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
        # The resolver would hand out GPUs as if Slurm had not, and when it is too late for that.
        slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
            # TensorFlow's default, 8888, is Jupyter's. Jobs and steps may share a node.
            port_base=20_000 + 16 * ((31 * job + step) % 625),
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
    neighbors = sum(one.rpartition(":")[0] == host for one in workers.job_tasks("worker"))
    if neighbors > 1 and gpus > 1:
        raise UserError(
            f"Slurm's variables: expected one task on each node, or tasks that see one GPU each, "
            f"found {neighbors} tasks on {host} that see {gpus}; use srun --ntasks-per-node=1, "
            "or --gpus-per-task=1"
        )
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        workers, task_type=slurm.task_type, task_id=slurm.task_id, num_accelerators={"GPU": gpus}
    )
