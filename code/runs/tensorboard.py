"""A run as TensorBoard shows it: scalars of each epoch, pictures, the configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from machine import files
from machine.errors import RunError
from runs import record as records
from runs.folder import FIRST_PICTURES
from runs.metrics import HISTORY_COLUMNS

FOLDER = "tensorboard"
OWNER_FILE = "run.json"  # whose events are in the folder


class TensorBoard:
    """Writes the events of one run into its folder ``tensorboard``.

    A process writes all epochs again, those before a resume too: each is there once.

    Args:
        run_folder: folder of the run.
        record: what the run is, see ``runs.record``.
    """

    def __init__(self, run_folder: Path, record: dict):
        self._pictures, self._folder = run_folder, run_folder / FOLDER
        identity = {key: record.get(key) for key in records.IDENTIFY_UNFINISHED}
        self._record = json.loads(json.dumps(identity))
        self._writer = None
        self._written = 0

    def require_own(self) -> None:
        """Raise ``RunError`` if ``write`` would replace something else than events of this run."""
        if not self._folder.exists():
            return
        try:
            found = json.loads((self._folder / OWNER_FILE).read_bytes())
            differences = records.differences(found, self._record, records.IDENTIFY_UNFINISHED)
        except (OSError, ValueError, AttributeError):
            differences = [f"no {OWNER_FILE} of this program"]
        if differences:
            raise RunError(
                f"{self._folder}: expected events of this run, found those of another: "
                f"{'; '.join(differences)}; move the folder away, or leave out --tensorboard"
            )

    def write(self, history: list[dict]) -> None:
        """Write the epochs that are not there yet.

        Args:
            history: all epochs of the run so far, keys of ``HISTORY_COLUMNS``.

        Raises:
            StorageError: the folder cannot be written.
        """
        import tensorflow as tf

        with files.storing(self._folder):
            if self._writer is None:
                self._begin(tf)
            with self._writer.as_default():
                for row in history[self._written :]:
                    for name in HISTORY_COLUMNS[1:]:
                        if row.get(name) is not None:
                            tf.summary.scalar(name, row[name], step=row["epoch"])
            self._writer.flush()
        self._written = len(history)

    def _begin(self, tf) -> None:
        if self._folder.exists():
            shutil.rmtree(self._folder)
        self._folder.mkdir()
        text = json.dumps(self._record, indent=2)
        files.write_bytes(self._folder / OWNER_FILE, text.encode())
        self._writer = tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default(step=0):
            tf.summary.text("configuration", f"```\n{text}\n```")
            for name in FIRST_PICTURES:
                picture = tf.io.decode_png((self._pictures / name).read_bytes(), channels=3)
                tf.summary.image(Path(name).stem, picture[None])
