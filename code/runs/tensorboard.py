"""A run as TensorBoard shows it: scalars of each epoch, pictures, the configuration."""

from __future__ import annotations

import json
from pathlib import Path

from machine import files
from runs.folder import FIRST_PICTURES
from runs.metrics import HISTORY_COLUMNS

FOLDER = "tensorboard"


class TensorBoard:
    """Writes the events of one run into its folder ``tensorboard``.

    A process writes all epochs again, those before a resume too: each is there once.

    Args:
        run_folder: folder of the run, with its first pictures.
        record: what the run is, see ``runs.record``.
    """

    def __init__(self, run_folder: Path, record: dict):
        self._run_folder, self._record = run_folder, record
        self._writer = None  # until there is a state: what goes before it is no run's folder
        self._written = 0

    def write(self, history: list[dict]) -> None:
        """Write the epochs that are not there yet.

        Args:
            history: all epochs of the run so far, keys of ``HISTORY_COLUMNS``.

        Raises:
            StorageError: the folder cannot be written.
        """
        import tensorflow as tf

        with files.storing(self._run_folder / FOLDER):
            self._writer = self._writer or self._begin(tf)
            with self._writer.as_default():
                for row in history[self._written :]:
                    for name in HISTORY_COLUMNS[1:]:
                        if row.get(name) is not None:
                            tf.summary.scalar(name, row[name], step=row["epoch"])
            self._writer.flush()
        self._written = len(history)

    def _begin(self, tf):
        folder = self._run_folder / FOLDER
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            tf.summary.text("configuration", f"```\n{json.dumps(self._record, indent=2)}\n```")
            for name in FIRST_PICTURES:
                picture = tf.io.decode_png((self._run_folder / name).read_bytes(), channels=3)
                tf.summary.image(Path(name).stem, picture[None])
        return writer
