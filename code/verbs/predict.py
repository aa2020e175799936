"""Write the class probabilities of images, a row for each, in their order."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

import DataLoader
from machine import files, processor
from machine.errors import UserError
from runs import metrics, plots
from runs import record as records
from runs.weights import MEAN_FILE
from sources import shapes
from verbs.test import images_of

SHOWN = 20  # answers on the screen
GALLERY = 100  # pictures in predictions.gallery.png
TABLE_COLUMNS = ("row", "name", "class", "probability")  # and one for each class


def predict(
    *,
    save_dir: Path,
    data_dir: Path,
    output: Path | None = None,
    default_output: Path,
    mirror: str | None = None,
    images: Path | None = None,
    layout: str = "auto",
    skip_damaged: bool = False,
    precision: str = "float32",
    test_time_flip: bool | None = None,
    test_time_shift: bool | None = None,
    seen_test_images: bool = False,
) -> None:
    """Write predictions.npy, float32 ``[N, K]``, and predictions.csv beside it.

    Args:
        save_dir: folder of the run.
        data_dir: folder of the data.
        output: the .npy file, or a pipe or device, which takes no more than the rows; None for
            ``default_output`` where the run is one of CIFAR-10, else for predictions.npy in the
            run's folder.
        default_output: see there.
        mirror: address to download CIFAR-10 or CIFAR-100 from.
        images: a .npy file, a picture, or a folder of pictures; None for the private test images,
            or the public ones where there are no private ones.
        layout: of a .npy file, see ``DataLoader.load_testing_images``.
        skip_damaged: leave damaged pictures out instead of refusing all.
        precision: "float32" or "bfloat16".
        test_time_flip: see Configure.py; None for what the run was configured to.
        test_time_shift: likewise.
        seen_test_images: take a run that was trained on the test images, too.

    Raises:
        UserError: see ``machine.errors``.
    """
    record = records.read_record(save_dir)
    records.require_unseen(save_dir, record, seen_test_images)
    class_names = record["class_names"]
    if output is None:
        output = default_output if record["dataset"] == "cifar10" else save_dir / "predictions.npy"
    # A pipe or a device takes the rows alone, and may be the standard output.
    stream = not output.is_dir() and files.is_stream(output)
    if images is None and record["dataset"] == "cifar10":
        images = DataLoader.find_private_images(data_dir)
    table, gallery = output.with_suffix(".csv"), output.with_suffix(".gallery.png")
    earlier = not stream and table.exists()
    if not stream:
        _require_own(output, table, gallery, images, save_dir)
    say = functools.partial(print, file=sys.stderr if stream else sys.stdout)
    source = _open_images(images, save_dir, record, data_dir, mirror, layout, skip_damaged)
    processor.prepare_tensorflow()
    from Model import INFERENCE_BATCH, Model

    model = Model.load(save_dir, precision, test_time_flip, test_time_shift)
    count = f"{source.count:,} image{'s' * (source.count != 1)}"
    count += metrics.describe_views(model.configs)
    say(f"predicting {count}: {source.source} ({source.reason})")
    for note in source.notes:
        say(note)
    # Two batches for each of eight devices in memory, however many images there are.
    chunk, names = 16 * INFERENCE_BATCH, source.names or range(source.count)
    header = {"descr": "<f4", "fortran_order": False, "shape": (source.count, len(class_names))}
    first, shown, row = [], [], 0
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(files.writing(output))
        text = None
        if not stream:
            text = io.TextIOWrapper(stack.enter_context(files.writing(table)), "utf-8", newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow([*TABLE_COLUMNS, *class_names])
        bar = stack.enter_context(tqdm(total=source.count, unit=" images", disable=None))
        np.lib.format.write_array_header_1_0(file, header)
        for x in source.batches(chunk):
            probabilities = model.predict_prob(x)
            file.write(probabilities.astype("<f4").tobytes())
            if row < GALLERY:
                first.append(x[: GALLERY - row])
            for p in probabilities if text or row < GALLERY else ():
                best = int(p.argmax())
                if text:
                    values = map(str, p)  # float32, never rounded
                    writer.writerow([row, names[row], class_names[best], p[best], *values])
                if row < GALLERY:
                    shown.append((names[row], class_names[best], float(p[best])))
                row += 1
            bar.update(len(x))
        if text:
            text.flush()
            text.detach()
    pictures = source.names is not None and text is not None
    if pictures:
        captions = [f"{name[:18]}\n{label} {100 * p:.0f} %" for name, label, p in shown]
        title = f"{len(shown)} of {source.count:,} pictures"
        picture = plots.gallery_png(np.concatenate(first), captions, min(8, len(shown)), title)
        files.write_bytes(gallery, picture)
    elif earlier:  # of other answers
        gallery.unlink(missing_ok=True)
    for name, label, p in shown[:SHOWN] if source.names else ():
        say(f"{name}: {label}, {100 * p:.1f} %")
    say(f"probabilities: {output}")
    if text:
        say(f"classes and names: {table}")
    if pictures:
        say(f"pictures: {gallery}")


def _require_own(output: Path, table: Path, gallery: Path, images: Path | None, run: Path) -> None:
    """Raise ``UserError`` if the answers would replace something else than earlier answers."""
    if output.is_dir() or output.suffix != ".npy":
        raise UserError(f"output: expected a file name that ends in .npy, found {output}")
    read = [path for path in (images, run / MEAN_FILE) if path is not None and path.exists()]
    for path in (output, gallery):
        if path.exists() and any(path.samefile(one) for one in read):
            raise UserError(f"output: expected a file that is not read, found {path}; name another")
    pictures = images is not None and images.suffix.lower() != ".npy"
    if pictures and gallery.exists() and not table.exists():
        raise UserError(
            f"output: {gallery} would be replaced, which predict did not write; name another"
        )
    if table.exists():
        with table.open(errors="replace") as file:
            if not file.readline().startswith(",".join(TABLE_COLUMNS)):
                raise UserError(
                    f"output: {table} would be replaced, which predict did not write; name another"
                )


def _open_images(images, save_dir, record, data_dir, mirror, layout, skip_damaged):
    """The images to predict, and where they come from."""
    dataset = record["dataset"]
    if images is not None:
        return DataLoader.load_testing_images(images, layout, skip_damaged)
    if dataset == "shapes":
        x, name = shapes.load()[4], "the private test images of shapes"
    else:
        data = DataLoader.load_data(data_dir, dataset, mirror)
        x, _ = images_of(save_dir, record, data, "test")
        reason = f", as no private .npy is below {data_dir}" * (dataset == "cifar10")
        name = f"the test images of {dataset}{reason}"
    return DataLoader.TestingImages(name, "nhwc: from memory", len(x), lambda i, j: x[i:j])
