"""Data to uint8 NHWC images and int32 labels: CIFAR-10, the embedded set, images to classify."""

import dataclasses
import hashlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from machine.errors import DataError, UserError
from sources import cifar, download, shapes

CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "shapes": tuple(shapes.CLASS_NAMES),
}

LAYOUTS = ("auto", "planar", "interleaved", "nhwc", "nchw")
SAMPLE_IMAGES = 1_000  # what the layout and the scale of a file are told by
# Planar and interleaved rows are told apart by smoothness: read the wrong way, images are rougher.
# Measured on the 10,000 CIFAR-10 test images: 2.17 times (planar rows) and 2.63 times (interleaved)
# over 1,000 images; always above 1.7 over five. Single images reach down to 1.09 and are never
# wrong; 22 of 20,000 fall below this factor and are left to the user.
ROUGHNESS_FACTOR = 1.25


def load_data(
    data_dir: str | Path, dataset: str = "cifar10", mirror: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Loads a data set; CIFAR-10 is downloaded if the folder has none of its forms.

    Looks for `cifar-10-batches-py/` (or the folder itself being it), `cifar-10-python.tar.gz`,
    `cifar-10-binary.tar.gz` and `cifar-10-batches-bin/`, in this order. A batch, or the binary
    archive, that is sound but not the official one is used with a warning; of single binary
    batches no official checksum is known.

    Args:
        data_dir: folder of the data; "shapes" is embedded and does not use it.
        dataset: "cifar10" or "shapes".
        mirror: http(s) address to download from; see `download.fetch`.

    Returns:
        `(x_train, y_train, x_test, y_test)`: uint8 [N, 32, 32, 3] in 0..255 and int32 [N] in 0..9;
        50,000 and 10,000 images for the official CIFAR-10.

    Raises:
        UserError: an unknown data set.
        DataError: a file is missing or broken.
        DownloadError, StorageError: see `download.fetch`.
    """
    if dataset not in CLASS_NAMES:
        raise UserError(f"dataset: expected one of {', '.join(CLASS_NAMES)}, found {dataset!r}")
    if dataset == "shapes":
        return shapes.load()[:4]
    path = cifar.find(Path(data_dir)) or download.fetch(data_dir, mirror)
    return cifar.read(path)


def split_indices(y: np.ndarray, valid_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a stratified validation part: every class has its proportional share (±1 image).

    Args:
        y: labels, integers [N].
        valid_size: number of validation images, 0..N-1.
        seed: seed of the draw, a non-negative integer.

    Returns:
        `(train_indices, valid_indices)`: int64, ascending, disjoint, N together.

    Raises:
        UserError: valid_size is out of range.
    """
    if not 0 <= valid_size < len(y):
        raise UserError(f"valid_size: expected 0..{len(y) - 1}, found {valid_size}; choose another")
    classes, counts = np.unique(y, return_counts=True)
    shares, remainders = np.divmod(counts.astype(np.int64) * valid_size, len(y))
    largest = np.argsort(-remainders, kind="stable")[: valid_size - shares.sum()]
    shares[largest] += 1
    generator = np.random.Generator(np.random.PCG64(seed))
    in_valid = np.zeros(len(y), bool)
    for label, share in zip(classes, shares, strict=True):
        in_valid[generator.permutation(np.flatnonzero(y == label))[:share]] = True
    return np.flatnonzero(~in_valid), np.flatnonzero(in_valid)


def train_valid_split(
    x: np.ndarray, y: np.ndarray, valid_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Splits images and labels by `split_indices`; each part keeps the original order.

    Returns:
        `(x_train, y_train, x_valid, y_valid)`: copies, of the types given.

    Raises:
        UserError: valid_size is out of range.
    """
    train, valid = split_indices(y, valid_size, seed)
    return x[train], y[train], x[valid], y[valid]


def digest(*arrays: np.ndarray) -> str:
    """Returns the SHA-256 (64 hexadecimal digits) over dtype, shape and bytes of the arrays."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype.str} {array.shape}\n".encode())
        sha256.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return sha256.hexdigest()


@dataclasses.dataclass(frozen=True)
class TestingImages:
    """Images to classify, read from disk piece by piece: any number in constant memory.

    Attributes:
        source: name of the file or folder.
        layout: "planar", "interleaved", "nhwc", "nchw" or "pictures".
        reason: one line on how the layout was decided.
        count: number of images.
        read: gives images start..stop as uint8 [stop - start, 32, 32, 3]; raises DataError.
    """

    source: str
    layout: str
    reason: str
    count: int
    read: Callable[[int, int], np.ndarray] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """Returns the number of images."""
        return self.count

    def batches(self, batch_size: int) -> Iterator[np.ndarray]:
        """Yields all images in order, uint8 [<= batch_size, 32, 32, 3] in 0..255.

        Raises:
            DataError: a broken picture, or a value that is not an integer in 0..255.
        """
        for start in range(0, self.count, batch_size):
            yield self.read(start, min(start + batch_size, self.count))


def load_testing_images(path: str | Path, layout: str = "auto") -> TestingImages:
    """Opens images to classify.

    Args:
        path: a `.npy` file of shape (N, 3072), (N, 32, 32, 3) or (N, 3, 32, 32) and any integer or
            float dtype with integers in 0..255; a 32x32 PNG or JPEG; or a folder of those, taken
            in the order of their names (hidden files are ignored).
        layout: "planar" or "interleaved" for (N, 3072), "nhwc" or "nchw" for four axes; "auto"
            tells the first two apart by smoothness and the last two by shape.

    Returns:
        The images; only a first sample of a `.npy` file has been read.

    Raises:
        UserError: an unknown layout.
        DataError: a missing or broken file, another shape, dtype or range, or a layout that does
            not fit or cannot be told.
    """
    path = Path(path)
    if layout not in LAYOUTS:
        raise UserError(f"layout: expected one of {', '.join(LAYOUTS)}, found {layout!r}")
    # Not Path.is_file, which raises where a folder may not be read. A pipe would be waited for.
    if not (os.path.isfile(path) or os.path.isdir(path)):
        raise DataError(f"{path}: expected a .npy file, picture or folder, found no such thing")
    if path.suffix.lower() != ".npy" or path.is_dir():
        if layout != "auto":
            raise DataError(f"{path}: pictures have no --layout {layout}; leave it out")
        pictures = _list_pictures(path)
        return TestingImages(
            path.name,
            "pictures",
            "pictures: decoded by Pillow",
            len(pictures),
            lambda start, stop: np.stack([_read_picture(file) for file in pictures[start:stop]]),
        )
    file = _NpyFile.open(path)
    sample = file.read(0, min(SAMPLE_IMAGES, file.shape[0]))
    if file.dtype.kind == "f" and sample.min() >= 0 and sample.max() <= 1:
        raise DataError(
            f"{path}: expected pixels 0..255, found {file.dtype} within 0..1; multiply by 255 and "
            "round: np.round(x * 255).astype(np.uint8)"
        )
    layout, reason = _choose_layout(path, layout, _checked(path, sample, 0))

    def read(start: int, stop: int) -> np.ndarray:
        return cifar.to_nhwc(_checked(path, file.read(start, stop), start), layout)

    return TestingImages(path.name, layout, reason, file.shape[0], read)


def find_private_images(data_dir: str | Path) -> Path | None:
    """Returns the one `private_test_images*.npy` of a folder, or None.

    Raises:
        DataError: there is more than one.
    """
    paths = sorted(Path(data_dir).glob("private_test_images*.npy"))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise DataError(
            f"{data_dir}: expected one private_test_images*.npy, found {names}; keep one"
        )
    return paths[0] if paths else None


@dataclasses.dataclass(frozen=True)
class _NpyFile:
    """An image array on disk. It is read, not mapped: mapped pages would count as memory."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def open(cls, path: Path) -> "_NpyFile":
        """Reads the header and compares what it promises with what can be used and is there."""
        try:
            with path.open("rb") as file:
                head = io.BytesIO(file.read(1 << 14))
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[np.lib.format.read_magic(head)]
            shape, fortran_order, dtype = read_header(head)
        except Exception as error:  # the header is a Python literal: anything may be wrong with it
            raise DataError(
                f"{path}: expected a .npy file of version 1 or 2, found "
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}; "
                "write it with np.save"
            ) from error
        if dtype.kind not in "uif":
            raise DataError(f"{path}: expected integers 0..255, found dtype {dtype}; save as uint8")
        if shape[1:] not in ((cifar.PIXELS,), (32, 32, 3), (3, 32, 32)) or shape[0] < 1:
            raise DataError(
                f"{path}: expected shape (N, 3072), (N, 32, 32, 3) or (N, 3, 32, 32) with N >= 1, "
                f"found {shape}; reshape it"
            )
        if fortran_order:
            raise DataError(
                f"{path}: expected C order, found Fortran order; save np.ascontiguousarray(x)"
            )
        expected, found = math.prod(shape) * dtype.itemsize, path.stat().st_size - head.tell()
        if found != expected:
            raise DataError(
                f"{path}: expected {expected:,} bytes for {shape} {dtype}, found {found:,}; the "
                "file is incomplete or damaged: copy or save it again"
            )
        return cls(path, head.tell(), shape, dtype)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads the images start..stop as they are."""
        bytes_per_image = cifar.PIXELS * self.dtype.itemsize
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset + start * bytes_per_image)
                data = file.read((stop - start) * bytes_per_image)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        if len(data) != (stop - start) * bytes_per_image:
            raise DataError(f"{self.path}: became shorter while it was read; start again")
        return np.frombuffer(data, self.dtype).reshape(-1, *self.shape[1:])


def _checked(path: Path, images: np.ndarray, start: int) -> np.ndarray:
    """Returns images as uint8 if every value is an integer in 0..255; start numbers the first."""
    if images.dtype == np.uint8:
        return images
    bad = ~((images >= 0) & (images <= 255) & (images == np.floor(images)))
    if bad.any():
        first = int(bad.argmax())  # in order of images
        raise DataError(
            f"{path}: expected integers 0..255, found {images.flat[first]} in image "
            f"{start + first // cifar.PIXELS}; save the pixels as uint8"
        )
    return images.astype(np.uint8)


def _choose_layout(path: Path, layout: str, sample: np.ndarray) -> tuple[str, str]:
    """Returns the layout of a file and why, from the one asked for and its first images."""
    shape = sample.shape[1:]
    fitting = {(cifar.PIXELS,): ("planar", "interleaved"), (32, 32, 3): ("nhwc",)}.get(
        shape, ("nchw",)
    )
    if layout in fitting:
        return layout, f"{layout}: as asked for"
    if layout != "auto":
        raise DataError(
            f"{path}: expected --layout {' or '.join(fitting)} for images of shape {shape}, "
            f"found {layout}; leave it out"
        )
    if len(fitting) == 1:
        return fitting[0], f"{fitting[0]}: images of shape {shape}"
    roughness = {name: _roughness(cifar.to_nhwc(sample, name)) for name in fitting}
    measured = "neighbouring pixels differ by {:.1f} (planar) against {:.1f} (interleaved)".format(
        *roughness.values()
    )
    smooth, rough = sorted(fitting, key=roughness.get)
    if roughness[rough] > ROUGHNESS_FACTOR * roughness[smooth]:
        return smooth, f"{smooth} rows: {measured}"
    raise DataError(
        f"{path}: cannot tell planar from interleaved rows: {measured}; "
        "pass --layout planar or --layout interleaved"
    )


def _roughness(images: np.ndarray) -> float:
    """Mean absolute difference of horizontal and vertical neighbours, within a channel."""
    images = images.astype(np.int16)
    return float(np.mean([np.abs(np.diff(images, axis=axis)).mean() for axis in (1, 2)]))


def _list_pictures(path: Path) -> list[Path]:
    """Returns the PNG and JPEG files of a folder by name, or the one that path is."""
    paths = [path]
    try:
        if path.is_dir():
            paths = sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    for picture in paths:
        if picture.suffix.lower() not in (".png", ".jpg", ".jpeg") or not picture.is_file():
            raise DataError(f"{picture}: expected .npy, .png, .jpg or .jpeg; take it out")
    if not paths:
        raise DataError(f"{path}: expected PNG or JPEG pictures, found an empty folder")
    return paths


def _read_picture(path: Path) -> np.ndarray:
    """Reads one picture as uint8 [32, 32, 3]; never resizes, never drops transparency."""
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.size != (32, 32):  # known from the header, before any pixel is decoded
                raise ValueError(f"{picture.width}x{picture.height}")
            if picture.mode not in ("RGB", "RGBA", "L", "P"):
                raise ValueError(f"mode {picture.mode}")
            pixels = np.asarray(picture.convert("RGBA"))
        if pixels[..., 3].min() < 255:
            raise ValueError("transparent pixels")
    except Exception as error:  # Pillow's decoders raise many kinds
        raise DataError(
            f"{path}: expected a 32x32 opaque RGB, grey or palette PNG or JPEG, found "
            f"{' '.join(str(error).split())[:200]}; convert it"
        ) from error
    return pixels[..., :3]
