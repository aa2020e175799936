"""Devices and processes that train together: a ``tf.distribute`` strategy, and who writes."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import tensorflow as tf

import Checkpoint
from Configure import STRATEGIES
from Errors import UserError, WorkerError

START_MINUTES = 10  # for all workers of a job to have come
_OWN_ERRORS = (tf.errors.ResourceExhaustedError, tf.errors.InvalidArgumentError)
_CLUSTER = "TF_CONFIG, or Slurm's variables of a step with more than one task"


def make_strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The strategy that the environment asks for. Call it before any other use of a device.

    A cluster is described by ``TF_CONFIG``, as TensorFlow's own programs read it, or by the
    variables that ``srun`` sets.

    Args:
        name: "auto": "multiworker" if the environment has a cluster, else "mirrored" if this
            process has several devices, else "one"; or one of these.

    Raises:
        UserError: no such strategy, or a cluster that is missing or described wrongly.
    """
    if name not in STRATEGIES:
        raise UserError(f"strategy: expected one of {', '.join(STRATEGIES)}, found {name!r}")
    cluster = _find_cluster() if name in ("auto", "multiworker") else None
    if cluster is not None:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
    if name == "multiworker":
        raise UserError(f"strategy: expected {_CLUSTER}, found neither; start it on each machine")
    devices = local_devices()
    if name == "mirrored" or (name == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def local_devices() -> list[str]:
    """Names of the devices that compute: GPUs, else (logical) CPUs.

    In a cluster these are the devices of all workers: see ``devices_of``.
    """
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return [device.name for device in tf.config.list_logical_devices(kind)]


def devices_of(strategy: tf.distribute.Strategy) -> list[str]:
    """Names of the devices of this process, whatever it does with them."""
    return list(strategy.extended.worker_devices) if _has_workers(strategy) else local_devices()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """If this process is the one that writes files and speaks."""
    cluster = strategy.cluster_resolver
    if not _has_workers(strategy):
        return True
    chiefs = "chief" if "chief" in cluster.cluster_spec().jobs else "worker"
    return (cluster.task_type, cluster.task_id) == (chiefs, 0)


def describe(strategy: tf.distribute.Strategy) -> dict[str, int]:
    """Number of processes and of replicas, for the record of a run."""
    workers = 1
    if _has_workers(strategy):
        workers = sum(map(len, strategy.cluster_resolver.cluster_spec().as_dict().values()))
    return {"workers": workers, "replicas": strategy.num_replicas_in_sync}


def share(strategy: tf.distribute.Strategy, data: bytes) -> bytes:
    """The chief's data, in every process; the others' is ignored.

    Collective: every process of the job must call it.
    """
    if not _has_workers(strategy):
        return data
    length = int.from_bytes(_share(strategy, len(data).to_bytes(8, "little"), 8), "little")
    # TensorFlow's collectives crash on an empty array.
    return _share(strategy, data, length) if length else b""


def require_same(strategy: tf.distribute.Strategy, record: dict) -> None:
    """Compare what this process would train with what the chief would.

    Collective. It comes before the network is built: workers that build other networks wait for
    each other without end.

    Args:
        strategy: of ``make_strategy``.
        record: the keys of ``Checkpoint.require_same``.

    Raises:
        RunError: they differ.
    """
    own = json.dumps(record)
    chief = share(strategy, own.encode())
    Checkpoint.require_same(json.loads(chief), json.loads(own))


@contextlib.contextmanager
def joining(name: str = "auto"):
    """The strategy of ``make_strategy``, once every worker of the job is there.

    Raises:
        UserError: see ``make_strategy``.
        WorkerError: another worker ended or cannot be reached any more.
    """
    timer = threading.Timer(60 * START_MINUTES, _give_up)
    timer.daemon = True
    timer.start()
    strategy = None
    try:
        try:
            strategy = make_strategy(name)
            share(strategy, b"here")
        finally:
            timer.cancel()
        yield strategy
    except tf.errors.OpError as error:
        alone = strategy is not None and not _has_workers(strategy)
        if alone or isinstance(error, _OWN_ERRORS):
            raise
        raise WorkerError(
            "expected every worker of the job to go on, found one that ended or cannot be reached "
            f"({type(error).__name__}); start all of them again: the run goes on from its last "
            "saved state"
        ) from error


class SharedRun:
    """A run's folder for all workers: the chief reads and writes it, the others are told.

    Args:
        strategy: of ``make_strategy``.
        folder: of the run; not touched in other processes than the chief.
        record: see ``Checkpoint.Run``.

    Raises:
        UserError: see ``Checkpoint.Run``.
    """

    def __init__(self, strategy: tf.distribute.Strategy, folder: Path, record: dict):
        self._strategy = strategy
        self._run = Checkpoint.Run(folder, record) if is_chief(strategy) else None

    def __enter__(self):
        if self._run is not None:
            with self._telling_the_others():
                self._run.__enter__()
        return self

    def __exit__(self, *exception):
        if self._run is not None:
            self._run.__exit__(*exception)

    def begin(self, fresh: bool, state_bytes: int) -> bool:
        """What ``Checkpoint.Run.begin`` says to the chief, in every process.

        Args:
            fresh: start over, whatever the folder holds.
            state_bytes: of one state, to see if the disk has room.

        Raises:
            UserError: see ``Checkpoint.Run.begin`` and ``Checkpoint.Run.require_space``.
            WorkerError: the chief met one of these.
        """
        answer = {}
        if self._run is not None:
            with self._telling_the_others():
                self._run.require_space(state_bytes)
                answer = {"begin": self._run.begin(fresh)}
        answer = json.loads(share(self._strategy, json.dumps(answer).encode()))
        if "error" in answer:
            raise WorkerError(f"the chief could not begin: {answer['error']}")
        return answer["begin"]

    @contextlib.contextmanager
    def _telling_the_others(self):
        try:
            yield
        except UserError as error:
            share(self._strategy, json.dumps({"error": str(error)}).encode())
            raise

    def load_state(self) -> tuple[dict[str, np.ndarray], dict] | None:
        """The chief's ``Checkpoint.Run.load_state``, in every process."""
        state = self._run.load_state() if self._run is not None else None
        if not _has_workers(self._strategy):
            return state
        data = b"" if state is None else Checkpoint.encode_state(*state)
        data = share(self._strategy, data)
        return Checkpoint.decode_state(data) if data else None

    def save_state(self, arrays: dict[str, np.ndarray], progress: dict) -> None:
        """Save in the chief's folder; nothing in the other processes."""
        if self._run is not None:
            self._run.save_state(arrays, progress)


def _give_up() -> None:
    """End the process: TensorFlow would wait without end for workers that do not come."""
    line = (
        f"error: expected every worker of the job within {START_MINUTES} minutes, found some "
        "missing; start them all, and look if they reach each other\n"
    )
    os.write(2, line.encode())
    os._exit(WorkerError.exit_code)


def _has_workers(strategy) -> bool:
    return isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)


def _share(strategy, data: bytes, length: int) -> bytes:
    # Bytes travel as float32, which every kind of device and collective adds up exactly.
    padded = np.zeros(length, np.float32)
    if is_chief(strategy):
        padded[:] = np.frombuffer(data, np.uint8)
    return _first_replicas(strategy, padded).astype(np.uint8).tobytes()


def _first_replicas(strategy, array: np.ndarray) -> np.ndarray:
    """The array that the chief's first replica holds, float32 and not empty, in every process."""
    results = _sum_of_first_replica(strategy)(tf.constant(array))
    return strategy.experimental_local_results(results)[0].numpy()


@functools.cache
def _sum_of_first_replica(strategy):
    """The sum of the first replica's vector and of all others' taken as zeros, compiled once."""

    def in_replica(vector):
        context = tf.distribute.get_replica_context()
        first = tf.cast(tf.equal(context.replica_id_in_sync_group, 0), tf.float32)
        return context.all_reduce(tf.distribute.ReduceOp.SUM, vector * first)

    return tf.function(
        lambda vector: strategy.run(in_replica, (vector,)),
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.float32)],
    )


def _find_cluster():
    """TensorFlow's resolver of the cluster that the environment describes, or None."""
    if os.environ.get("TF_CONFIG"):
        _check_tf_config(os.environ["TF_CONFIG"])
        return tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if os.environ.get("SLURM_STEP_NUM_TASKS", "1") != "1":
        return _find_slurm_cluster()
    return None


def _check_tf_config(text: str) -> None:
    """Raise ``UserError`` unless TF_CONFIG names a cluster of workers and this task in it."""
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        if not set(jobs) <= {"chief", "worker"}:
            raise ValueError(f"the jobs {', '.join(jobs)}")
        addresses = [address for job in jobs.values() for address in job]
        for address in addresses:
            if not re.fullmatch(r"\S+:\d+", str(address)) or addresses.count(address) > 1:
                raise ValueError(f"the address {address!r}, which is no host:port or stands twice")
        if not 0 <= int(task["index"]) < len(jobs[task["type"]]):
            raise ValueError(f"the task {task} that is not in the cluster")
    except (ValueError, KeyError, TypeError) as error:
        found = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(
            'TF_CONFIG: expected {"cluster": {"worker": ["host:port", ...]}, "task": {"type": '
            f'"worker", "index": 0}}}}, found {found}'
        ) from error


def _find_slurm_cluster():
    try:
        options = {}
        if not tf.config.list_physical_devices("GPU"):
            # The resolver hands out GPUs to tasks, and fails where there are none to hand out.
            tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
            options = {"gpus_per_node": tasks, "gpus_per_task": 1, "auto_set_gpu": False}
        cluster = tf.distribute.cluster_resolver.SlurmClusterResolver(**options)
        address = cluster.cluster_spec().task_address(cluster.task_type, cluster.task_id)
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        raise UserError(f"Slurm's variables: expected those of a step, found {error}") from error
    node = os.environ.get("SLURMD_NODENAME")
    if node is not None and address.rpartition(":")[0] != node:
        # The resolver sorts hosts by name, Slurm numbers its tasks in its own order.
        raise UserError(
            f"Slurm's variables: expected task {os.environ['SLURM_PROCID']} on {address}, found it "
            f"on {node}; name the nodes so that their order by name is Slurm's, or use TF_CONFIG"
        )
    return cluster
