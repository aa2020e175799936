"""Images and labels from ``.npy`` files, mapped and read piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from machine.errors import DataError

SIDE = 32  # pixels
PIXELS = 3 * SIDE * SIDE
_FITTING = {
    (PIXELS,): ("planar", "interleaved"),
    (SIDE, SIDE, 3): ("nhwc",),
    (3, SIDE, SIDE): ("nchw",),
}
_SAMPLE_IMAGES = 1_000  # tell the layout and the scale of a file
# Planar and interleaved rows are told apart by smoothness: read the wrong way, images are rougher.
# Measured on the 10,000 CIFAR-10 test images: 2.17 times (planar rows) and 2.69 times (interleaved)
# over the file. Of single images none is guessed wrong; 22 of 20,000 fall below this factor and
# are left to the user. Grey images, which break the rule, are told by their equal channels.
_ROUGHNESS_FACTOR = 1.25


def open_images(
    path: Path, layout: str = "auto"
) -> tuple[str, int, Callable[[int, int], np.ndarray]]:
    """Open an array of images; only a first sample is read here.

    Args:
        path: a ``.npy`` file of shape (N, 3072), (N, 32, 32, 3) or (N, 3, 32, 32), any order and
            any integer or float dtype, with integers in 0..255.
        layout: one of ``Configure.LAYOUTS``; "auto" tells rows by smoothness, four axes by shape.

    Returns:
        One line with the layout and how it was decided, N, and a function that gives the images
        start..stop, as far as there are, as uint8 ``[n, 32, 32, 3]`` and may raise a DataError.

    Raises:
        DataError: a damaged file, another shape, dtype or range, or a layout that does not fit or
            cannot be told.
    """
    array = _open(path)
    if array.dtype.kind not in "uif":
        raise DataError(f"{path}: expected integers 0..255, found {array.dtype}; save as uint8")
    if array.shape[1:] not in _FITTING or len(array) < 1:
        raise DataError(
            f"{path}: expected shape (N, 3072), (N, 32, 32, 3) or (N, 3, 32, 32) with N >= 1, "
            f"found {array.shape}; reshape it"
        )
    sample = array[:_SAMPLE_IMAGES]
    if array.dtype.kind == "f" and sample.min() >= 0 and sample.max() <= 1:
        raise DataError(
            f"{path}: expected pixels 0..255, found {array.dtype} within 0..1; multiply by 255 and "
            "round: np.round(x * 255).astype(np.uint8)"
        )
    layout, reason = _choose_layout(path, layout, _to_uint8(path, sample, 0))

    def read(start: int, stop: int) -> np.ndarray:
        return to_nhwc(_to_uint8(path, array[start:stop], start), layout)

    return reason, len(array), read


def load_labels(path: str | Path, count: int, num_classes: int) -> np.ndarray:
    """Read the labels of images.

    Args:
        path: a ``.npy`` file of integers, shape (N,) or (N, 1).
        count: N, the number of images.
        num_classes: labels are in 0..num_classes - 1.

    Returns:
        int32 ``[N]``.

    Raises:
        DataError: a missing or damaged file, another shape, dtype, length or range.
    """
    labels = _open(Path(path))
    if labels.dtype.kind not in "ui" or labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{path}: expected one integer label for each of {count:,} images, found {labels.dtype}"
            f" of shape {labels.shape}; name the labels of these images"
        )
    labels = labels.reshape(-1)
    bad = (labels < 0) | (labels >= num_classes)
    if bad.any():
        raise DataError(
            f"{path}: expected labels 0..{num_classes - 1}, found {labels[bad][0]} in row "
            f"{bad.argmax()}; use the labels of the run's classes"
        )
    return labels.astype(np.int32)


def to_nhwc(images: np.ndarray, layout: str) -> np.ndarray:
    """Bring uint8 images of any layout but "auto" to ``[N, 32, 32, 3]`` in C order."""
    if layout in ("interleaved", "nhwc"):
        return np.array(images, order="C").reshape(-1, SIDE, SIDE, 3)
    return np.ascontiguousarray(images.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _open(path: Path) -> np.ndarray:
    try:
        # What np.load(path, mmap_mode="r", allow_pickle=False) does with a .npy file, and no other.
        array = np.lib.format.open_memmap(path, mode="r")
        expected, found = array.offset + array.nbytes, path.stat().st_size
        if found != expected:
            raise ValueError(f"{found:,} bytes where its header says {expected:,}")
    except Exception as error:  # the header is a Python literal: anything may be wrong with it
        raise DataError(
            f"{path}: expected one sound array of numbers in a .npy file, found "
            f"{' '.join(str(error).split())[:200]}; save it again with np.save"
        ) from error
    return array


def _to_uint8(path: Path, images: np.ndarray, start: int) -> np.ndarray:
    """Convert images whose values are integers in 0..255; ``start`` is the number of the first."""
    if images.dtype == np.uint8:
        return images
    bad = ~((images >= 0) & (images <= 255) & (images == np.floor(images)))
    if bad.any():
        image = int(bad.reshape(len(bad), -1).any(axis=1).argmax())
        raise DataError(
            f"{path}: expected integers 0..255, found {images[image][bad[image]][0]} in image "
            f"{start + image}; save the pixels as uint8"
        )
    return images.astype(np.uint8)


def _choose_layout(path: Path, layout: str, sample: np.ndarray) -> tuple[str, str]:
    fitting = _FITTING[sample.shape[1:]]
    if layout in fitting:
        return layout, f"{layout}: as asked for"
    if layout != "auto":
        expected = f"--layout {' or '.join(fitting)} for images of shape {sample.shape[1:]}"
        raise DataError(f"{path}: expected {expected}, found {layout}; leave it out")
    if len(fitting) == 1:
        return fitting[0], f"{fitting[0]}: images of shape {sample.shape[1:]}"
    read = {name: to_nhwc(sample, name) for name in fitting}
    # Grey noise read the wrong way is smoother, but its channels are equal only the right way.
    grey = {name: (x == x[..., :1]).all(axis=(1, 2, 3)) for name, x in read.items()}
    votes = {
        name: int((grey[name] & ~grey[other]).sum()) for name, other in (fitting, fitting[::-1])
    }
    if sum(vote > 0 for vote in votes.values()) == 1:
        chosen = max(votes, key=votes.get)
        return chosen, f"{chosen} rows: so read, grey images have equal channels"
    roughness = {name: _roughness(x) for name, x in read.items()}
    smooth, rough = sorted(fitting, key=roughness.get)
    measured = "neighbouring pixels differ by {:.1f} (planar) against {:.1f} (interleaved)".format(
        *roughness.values()
    )
    if roughness[rough] > _ROUGHNESS_FACTOR * roughness[smooth] and not any(votes.values()):
        return smooth, f"{smooth} rows: {measured}"
    raise DataError(
        f"{path}: expected rows that are clearly planar or interleaved, found that {measured}; "
        "pass --layout planar or --layout interleaved"
    )


def _roughness(images: np.ndarray) -> float:
    """Mean absolute difference of horizontal and vertical neighbours, within a channel."""
    images = images.astype(np.int16)
    return float(np.mean([np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2)]))
