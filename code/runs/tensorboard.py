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

    Raises:
        StorageError: the folder cannot be written.
    """

    def __init__(self, run_folder: Path, record: dict):
        import tensorflow as tf

        self._folder, self._written = run_folder / FOLDER, 0
        with files.storing(self._folder):
            for earlier in self._folder.glob("events.out.tfevents.*"):
                earlier.unlink()
            self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=0):
                tf.summary.text("configuration", f"```\n{json.dumps(record, indent=2)}\n```")
                for name in FIRST_PICTURES:
                    picture = tf.io.decode_png((run_folder / name).read_bytes(), channels=3)
                    tf.summary.image(Path(name).stem, picture[None])

    def write(self, history: list[dict]) -> None:
        """Write the epochs that are not there yet.

        Args:
            history: all epochs of the run so far, keys of ``HISTORY_COLUMNS``.

        Raises:
            StorageError: the folder cannot be written.
        """
        import tensorflow as tf

        with files.storing(self._folder), self._writer.as_default():
            for row in history[self._written :]:
                for name in HISTORY_COLUMNS[1:]:
                    if row.get(name) is not None:
                        tf.summary.scalar(name, row[name], step=row["epoch"])
            self._writer.flush()
        self._written = len(history)
