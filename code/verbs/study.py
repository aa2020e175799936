"""Train and test the runs of a study, several at a time, and write its table."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tqdm import tqdm

import Configure
import DataLoader
from machine import files, processor
from machine.console import Signals
from machine.errors import InterruptedRunError, RunError, StudyError, UserError
from runs import state as states
from runs.folder import LOCK_FILE
from runs.metrics import HISTORY_FILE, TEST_FILE
from runs.record import RECORD_FILE, differences, read_record
from study import tables
from study.write import PAGE_FILE, require_own, write_numbers, write_results
from verbs.test import test
from verbs.train import data_digests, train, training_data

MAIN = Path(__file__).resolve().parents[1] / "main.py"


class _Place(NamedTuple):
    """Where runs are trained, one after the other."""

    environment: Mapping[str, str] = MappingProxyType({})  # in place of this process's values
    cores: Set[int] = frozenset()  # all for none


class _Task(NamedTuple):
    """One run of a study."""

    row: Configure.Row
    seed: int
    study: Path  # its folder

    @property
    def folder(self) -> Path:
        return self.study / f"{self.row.name}-{self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def failure(self) -> Path:
        """Why it failed, for every process of the study; until it is started again."""
        return self.log.with_suffix(".failed")


def study(
    *,
    name: str,
    save_dir: Path,
    data_dir: Path,
    mirror: str | None = None,
    overrides: dict[str, Any],
    seeds: int | None = None,
    jobs: int = 1,
    only: str | None = None,
    seed: int | None = None,
    command: Sequence[str] = (sys.executable, str(MAIN)),
) -> None:
    """Train and test every run of a study that is not finished, and write what all of them say.

    Several processes, on several machines, may work on one folder: each takes the next run that is
    neither finished nor taken, and whoever finishes a run writes the results of all that are done.

    Args:
        name: key of ``Configure.STUDIES``.
        save_dir: folder of the study; each run has a folder in it, and its output beside that.
        data_dir: folder of the data.
        mirror: address to download CIFAR-10 or CIFAR-100 from.
        overrides: values by key of ``Configure``, for all runs.
        seeds: runs of each row, seeds 0, 1, ...; None for the study's own number.
        jobs: runs at a time, each on an equal share of this process's cores, or on a GPU.
        only: name of a row: train and test this one run, in this process.
        seed: of that run; 0 for None.
        command: what ``only`` and the other arguments are given to, to start a run.

    Raises:
        StudyError: some runs failed; all others are finished.
        InterruptedRunError: stopped by a signal; the runs' states are saved.
        UserError: see ``machine.errors``.
    """
    grid = Configure.STUDIES[name]
    rows = {row.name: row for row in grid.rows}
    if only is not None:
        if only not in rows:
            raise UserError(f"only: expected one of {', '.join(rows)}, found {only!r}")
        if seeds is not None or jobs != 1:
            raise UserError("only: expected neither --seeds nor --jobs with it: it is one run")
        _run(grid, _Task(rows[only], seed or 0, save_dir), data_dir, mirror, overrides)
        return
    if seed is not None:
        raise UserError("seed: expected --only with it, found none; --seeds is the number of runs")
    seeds = grid.seeds if seeds is None else seeds
    if min(seeds, jobs) < 1:
        raise UserError(f"expected 1 or more seeds and jobs, found {seeds} and {jobs}")
    tasks = _list_tasks(grid, save_dir, seeds)
    configs = [_configure(grid, task, overrides) for task in tasks]
    require_own(save_dir, name)
    digests = None
    if not all(tables.is_finished(task.folder) for task in tasks):
        # Before any run needs them: they are downloaded once, and what is wrong is said at once.
        data = DataLoader.load_data(data_dir, configs[0][1]["dataset"], mirror)
        training_data(data, 0, configs[0][1])
        digests = data_digests(data)
    for task, wanted in zip(tasks, configs, strict=True):
        _require_same_run(task.folder, *wanted, digests)
    places = _places(jobs)
    with files.storing(save_dir):
        save_dir.mkdir(parents=True, exist_ok=True)
    arguments = [*command, "study", name, f"--save-dir={save_dir}", f"--data-dir={data_dir}"]
    arguments += [f"--mirror={mirror}"] if mirror else []
    arguments += Configure.flags(overrides)
    workers = _Workers(grid, name, save_dir, seeds, arguments, configs[0][1]["epochs"])
    workers.run(places)


def _list_tasks(grid: Configure.Study, folder: Path, seeds: int) -> list[_Task]:
    """The runs of so many seeds, and those of more seeds that are finished: no result is lost."""
    tasks = [_Task(row, number, folder) for number in range(seeds) for row in grid.rows]
    more = [
        _Task(row, int(number), folder)
        for row in grid.rows
        for path in sorted(folder.glob(f"{row.name}-*"))
        if (number := path.name.removeprefix(f"{row.name}-")).isdigit() and int(number) >= seeds
    ]
    return tasks + [task for task in more if tables.is_finished(task.folder)]


class _Workers:
    """Threads that each start the next free run as a process, and wait for it."""

    def __init__(self, grid, name, folder, seeds, arguments, epochs):
        self._grid, self._name, self._folder, self._seeds = grid, name, folder, seeds
        self._arguments, self._epochs = arguments, epochs
        self._tasks = _list_tasks(grid, folder, seeds)
        self._turn = threading.Lock()
        self._children: dict[int, subprocess.Popen] = {}  # by the number of their worker
        # What failed before this start, and when: it is tried once more, by one process.
        self._failed = {task.failure: _written(task.failure) for task in self._tasks}
        self._signals = Signals()
        self._stopping = False
        self._error: Exception | None = None

    def run(self, places: list[_Place]) -> None:
        """Until there is no free run, or a signal comes; one run at a time in each place."""
        # It also shows at once what cannot be put into one table.
        self._write(write_numbers)
        threads = [threading.Thread(target=self._work, args=item) for item in enumerate(places)]
        total, done = len(self._tasks) * self._epochs, self._count_epochs()
        with (
            self._signals,
            tqdm(total=total, initial=done, unit=" epochs", disable=None, smoothing=0) as bar,
        ):
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                time.sleep(0.2)
                if self._signals.received():
                    self._stop()
                bar.update(min(total, self._count_epochs()) - bar.n)
        if self._error:
            raise self._error
        self._write(write_results)
        finished = sum(tables.is_finished(task.folder) for task in self._tasks)
        summary = f"{finished} of {len(self._tasks)} runs are finished: {self._folder / PAGE_FILE}"
        if self._signals.received():
            raise InterruptedRunError(f"stopped by a signal; {summary}; start the command again")
        if failed := self._read_failures():
            named = "; ".join(f"{run}: {why}" for run, why in failed.items())
            raise StudyError(f"{len(failed)} failed ({named}); {summary}")
        print(summary)

    def _work(self, worker: int, place: _Place) -> None:
        environment = {**os.environ, **place.environment}
        if place.cores:
            # Of this thread; the processes that it starts inherit it.
            os.sched_setaffinity(0, place.cores)
        try:
            for task in self._tasks:
                with files.locked(task.log.with_suffix(".lock")) as lock:
                    failed = _written(task.failure)
                    tried = failed is not None and failed != self._failed[task.failure]
                    if lock is None or tried or tables.is_finished(task.folder):
                        continue
                    task.failure.unlink(missing_ok=True)
                    code = self._start(worker, task, lock, environment)
                    if self._stopping or self._signals.received():
                        return
                    if code:
                        said = _last_line(task.log, code)
                        files.write_bytes(task.failure, said.encode())
                        tqdm.write(f"{task.folder.name} failed: {said}")
                if tables.is_finished(task.folder):
                    accuracy = json.loads((task.folder / TEST_FILE).read_text())["accuracy"]
                    tqdm.write(f"{task.folder.name}: test accuracy {100 * accuracy:.2f} %")
                    self._write(write_numbers)
        except Exception as error:  # to be raised where the user sees it
            self._error = error
            self._stop()

    def _start(self, worker: int, task: _Task, lock: int, environment: dict) -> int:
        """Train and test one run in a process of its own; its exit code."""
        only = [f"--only={task.row.name}", f"--seed={task.seed}"]
        with task.log.open("ab") as log:
            with self._turn:
                if self._stopping:
                    return 0
                process = self._children[worker] = subprocess.Popen(
                    [*self._arguments, *only],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    # The run stays taken as long as it lives, even if this process is killed.
                    pass_fds=[lock],
                    # Ctrl-C reaches this process alone, which hands it on.
                    start_new_session=True,
                )
            code = process.wait()
            if code:
                time.sleep(1)  # a signal to the whole group may end it before this process hears it
            return code

    def _stop(self) -> None:
        with self._turn:
            if self._stopping:
                return
            self._stopping = True
            for process in self._children.values():
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)

    def _write(self, write) -> None:
        """Write the results of all runs that are done, by whichever process."""
        with files.locked(self._folder / LOCK_FILE, wait=True):
            runs: dict[str, list[dict]] = {}
            tasks = _list_tasks(self._grid, self._folder, self._seeds)
            for task in tasks:
                if tables.is_finished(task.folder):
                    runs.setdefault(task.row.name, []).append(tables.read_run(task.folder))
            results = tables.tabulate(self._name, self._grid, runs, len(tasks))
            write(self._folder, {**results, "failed": self._read_failures()})

    def _read_failures(self) -> dict[str, str]:
        """Why runs failed, by their names, in whichever process."""
        failed = {}
        for task in self._tasks:
            with contextlib.suppress(FileNotFoundError):
                if not tables.is_finished(task.folder):
                    failed[task.folder.name] = task.failure.read_text()
        return failed

    def _count_epochs(self) -> int:
        """Epochs that all runs have behind them."""
        epochs = 0
        for task in self._tasks:
            path = task.folder / HISTORY_FILE
            if path.exists():
                epochs += path.read_bytes().count(b"\n") - 1
        return epochs


def _run(grid, task: _Task, data_dir: Path, mirror: str | None, overrides: dict) -> None:
    """Train, test, and measure on its own training images, one run in this process."""
    model_configs, configs = _configure(grid, task, overrides)
    # What was trained is not trained again, whatever kind of machine did it.
    if (task.folder / RECORD_FILE).exists():
        digests = data_digests(DataLoader.load_data(data_dir, configs["dataset"], mirror))
        _require_same_run(task.folder, model_configs, configs, digests)
    else:
        train(
            preset=grid.preset,
            overrides=Configure.study_overrides(grid, task.row, task.seed, overrides),
            save_dir=task.folder,
            data_dir=data_dir,
            mirror=mirror,
            strategy="one",
            include_test=task.row.leak,
        )
    for split in ("test", "train"):
        test(
            save_dir=task.folder,
            data_dir=data_dir,
            mirror=mirror,
            split=split,
            seen_test_images=task.row.leak,
        )


def _configure(grid, task: _Task, overrides: dict) -> tuple[dict, dict]:
    """The configuration of one run.

    Raises:
        UserError: the row cannot be trained like that, or not as what it is.
    """
    try:
        chosen = Configure.study_overrides(grid, task.row, task.seed, overrides)
        configs = Configure.configure(grid.preset, chosen)
    except ValueError as error:
        raise UserError(f"row {task.row.name}: {error}") from error
    if Configure.cut_cosine(configs[1]):
        raise UserError(
            f"row {task.row.name}: expected epochs that end with a whole cosine, found "
            f"{configs[1]['epochs']}; give a few more or fewer"
        )
    return configs


def _require_same_run(
    folder: Path, model_configs: dict, training_configs: dict, digests: dict | None
) -> None:
    """Raise ``RunError`` if a run that is there, finished or not, is one of other values or data.

    What else a run cannot go on with, such as other versions, it says itself.
    """
    if finished := (folder / RECORD_FILE).exists():
        record = read_record(folder)
    elif state := states.peek(folder):
        record = state["run"]
    else:
        return
    wanted = {"model_configs": model_configs, "training_configs": training_configs}
    if digests:
        wanted["data_digests"] = digests
    if found := differences(record, wanted, tuple(wanted), strict=finished):
        raise RunError(
            f"{folder}: expected a run of this configuration and data, found another: "
            f"{'; '.join(found)}; give the study the flags and data that it began with, or name "
            "another --save-dir"
        )


def _places(jobs: int) -> list[_Place]:
    """A GPU for each of the jobs, or as many cores as for every other, since bits depend on them.

    Raises:
        UserError: there are fewer GPUs than jobs.
    """
    if jobs == 1:
        return [_Place()]
    processor.prepare_tensorflow()
    if gpus := processor.count_gpus():
        if jobs > gpus:
            raise UserError(f"jobs: expected at most {gpus}, one for each GPU, found {jobs}")
        named = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
        return [_Place({"CUDA_VISIBLE_DEVICES": named[job]}) for job in range(jobs)]
    if not hasattr(os, "sched_getaffinity"):
        return [_Place()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // jobs)
    return [
        _Place(cores={cores[(job * share + core) % len(cores)] for core in range(share)})
        for job in range(jobs)
    ]


def _written(path: Path) -> int | None:
    """When a file was last written, nanoseconds; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_mtime_ns
    return None


def _last_line(log: Path, code: int) -> str:
    """What a failed run said last."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    lines = log.read_text(errors="replace").split("\n")
    said = [line.strip().removeprefix("error: ") for line in lines if line.strip()]
    return said[-1] if said else f"ended with exit code {code}"
