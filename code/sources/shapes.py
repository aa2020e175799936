"""The embedded data set ``shapes``: ten kinds of figure, drawn from a seed in CIFAR-10's own types.

Nothing is read or fetched. Place, size, rotation, colours, background, clutter and noise vary
independently of the class, so what tells the classes apart is the outline alone.

A split is a pure function of its number, drawn as a whole from one PCG64. To give the same bytes
on every machine, it uses only what IEEE 754 rounds exactly (+ - * / sqrt, comparisons), directions
from a table rounded to 16 bits, and integers once a pixel's coverage is known: no ``np.sin``,
``np.exp`` or ``np.sum``, whose last bits differ between processors.
"""

import functools
import math
from collections.abc import Callable

import numpy as np

SIDE = 32  # pixels
SPLIT_SIZES = (10_000, 2_000, 1_000)  # train, test, private
PIECE = 100  # pictures drawn at a time: bounds memory; part of the recipe, as it orders the draws
LEVELS = 16  # steps of coverage between "pixel outside" and "pixel inside"
# Row k is (cos, sin) of k degrees, in steps of 2**-16.
ANGLES = [math.radians(k) for k in range(360)]
DIRECTIONS = np.rint([(math.cos(a) * 2**16, math.sin(a) * 2**16) for a in ANGLES]) / 2**16


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)


def _box(x: np.ndarray, y: np.ndarray, half_x: float, half_y: float) -> np.ndarray:
    return np.maximum(np.abs(x) - half_x, np.abs(y) - half_y)


def _half_planes(x: np.ndarray, y: np.ndarray, count: int, inradius: float) -> np.ndarray:
    """Signed distances to ``count`` lines evenly around the origin: [count, *x.shape], sorted."""
    normals = DIRECTIONS[:: 360 // count]
    return np.sort([x * cos + y * sin - inradius for cos, sin in normals], axis=0)


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square with a disc on two neighbouring sides."""
    lobes = np.minimum(_length(x - 0.55, y), _length(x, y - 0.55)) - 0.55
    return np.minimum(_box(x, y, 0.55, 0.55), lobes)


def _arrow(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    head = np.maximum(0.1 - x, 0.6 * (x - 1.1) + 0.8 * np.abs(y))
    return np.minimum(head, _box(x + 0.45, y, 0.65, 0.22))


# Signed distance to each outline, negative inside, for a figure of radius about 1 at the origin.
# No two are alike under rotation, reflection and scale, so flips and crops keep the class.
FIGURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "disc": lambda x, y: _length(x, y) - 0.9,
    "ring": lambda x, y: np.abs(_length(x, y) - 0.75) - 0.25,
    "triangle": lambda x, y: _half_planes(x, y, 3, 0.57)[-1],
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    # A pentagram holds the points on the inner side of at least four of its five lines.
    "star": lambda x, y: _half_planes(x, y, 5, 0.36)[-2],
    "cross": lambda x, y: np.minimum(_box(x, y, 1.05, 0.3), _box(x, y, 0.3, 1.05)),
    "crescent": lambda x, y: np.maximum(_length(x, y) - 1.0, 0.85 - _length(x - 0.5, y)),
    "heart": _heart,
    "bar": lambda x, y: _box(x, y, 1.1, 0.25),
    "arrow": _arrow,
}
CLASS_NAMES: tuple[str, ...] = tuple(FIGURES)


def _between(generator: np.random.Generator, shape: tuple, low: float, high: float) -> np.ndarray:
    """Uniform draws in [low, high); not ``Generator.uniform``, which may fuse * and +."""
    return low + (high - low) * generator.random(shape)


def _place(generator: np.random.Generator, reach: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates x and y, float64 [N, 32, 32], in a randomly turned frame.

    Its origin lies at most ``reach`` [N] pixels right or left, and up or down, of the middle.
    """
    count = len(reach)
    centre = _between(generator, (2, count), -1.0, 1.0) * reach + SIDE / 2
    degrees = np.floor(_between(generator, (count,), 0, 360)).astype(np.int16)
    cos, sin = DIRECTIONS[degrees].T[:, :, None, None]
    pixels = np.arange(SIDE) + 0.5
    right = pixels[None, None, :] - centre[0][:, None, None]
    down = pixels[None, :, None] - centre[1][:, None, None]
    return right * cos + down * sin, down * cos - right * sin


def _paint(canvas: np.ndarray, distance: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Lay ``colour`` [N, 3] on planes [N, 3, 32, 32] where ``distance`` (pixels) is negative."""
    cover = np.clip(np.floor((0.5 - distance) * LEVELS + 0.5), 0, LEVELS).astype(np.int16)
    return canvas + (colour[:, :, None, None] - canvas) * cover[:, None] // LEVELS


def _colours(generator: np.random.Generator, count: int, low: float, high: float) -> np.ndarray:
    """A grey level in [low, high) moved by up to 50 in each channel: int16 [count, 3]."""
    grey = _between(generator, (count, 1), low, high)
    return np.floor(grey + _between(generator, (count, 3), -50, 50)).astype(np.int16)


def _background(generator: np.random.Generator, count: int) -> np.ndarray:
    """Dark grounds int16 [count, 3, 32, 32]: plain, gradient, stripes or checks, in equal parts."""
    kind = np.floor(_between(generator, (count, 1, 1), 0, 4))
    x, y = _place(generator, np.full(count, 4.0))
    period = _between(generator, (count, 1, 1), 2.0, 6.0)
    strength = _between(generator, (count, 1, 1), 10.0, 40.0)
    stripes = np.floor(x / period).astype(np.int16) & 1
    checks = stripes ^ (np.floor(y / period).astype(np.int16) & 1)
    pattern = np.select([kind == 1, kind == 2, kind == 3], [x / 16, stripes, checks], 0.0)
    shade = np.floor(pattern * strength).astype(np.int16)
    return _colours(generator, count, 40, 90)[:, :, None, None] + shade[:, None]


def _clutter(generator: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """A thin line and two dots, each on about half of the pictures, in any colour."""
    count = len(canvas)
    for is_line in (True, False, False):
        x, y = _place(generator, np.full(count, 15.0))
        size = _between(generator, (count, 1, 1), 0.4, 0.8) * (1 if is_line else 2)
        absent = generator.random((count, 1, 1)) < 0.5
        distance = np.abs(y) - size if is_line else _length(x, y) - size
        canvas = _paint(canvas, distance + absent * 99, _colours(generator, count, 50, 205))
    return canvas


def draw(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw one picture for each label.

    Args:
        labels: int [N], 0..9, places in ``CLASS_NAMES``.
        generator: source of all that varies; N alone decides how far it is advanced.

    Returns:
        uint8 [N, 32, 32, 3], 0..255.
    """
    count = len(labels)
    size = _between(generator, (count,), 7.0, 12.0)
    x, y = (axis / size[:, None, None] for axis in _place(generator, 15.0 - size))
    distance = np.empty_like(x)
    for label, figure in enumerate(FIGURES.values()):
        rows = labels == label
        distance[rows] = figure(x[rows], y[rows])
    canvas = _clutter(generator, _background(generator, count))
    canvas = _paint(canvas, distance * size[:, None, None], _colours(generator, count, 160, 205))
    canvas = _clutter(generator, canvas)
    noise = _between(generator, canvas.shape, -1.0, 1.0)
    canvas += np.floor(noise * _between(generator, (count, 1, 1, 1), 0.0, 25.0)).astype(np.int16)
    canvas = np.clip(canvas, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.where(generator.random((count, 1, 1, 1)) < 0.1, 255 - canvas, canvas)


def _split(index: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """``count`` (a multiple of ten) pictures and labels, as many of each class, in random order."""
    generator = np.random.Generator(np.random.PCG64([index, 0]))
    labels = np.argsort(generator.random(count), kind="stable").astype(np.int32) % len(CLASS_NAMES)
    pieces = [draw(labels[i : i + PIECE], generator) for i in range(0, count, PIECE)]
    return np.ascontiguousarray(np.concatenate(pieces)), labels


@functools.cache
def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw the whole set, which takes seconds; a process draws it once.

    Returns:
        x_train uint8 [10000, 32, 32, 3] 0..255, y_train int32 [10000] 0..9, x_test [2000, ...],
        y_test [2000], and x_private [1000, ...], whose labels are thrown away. All are read-only.
    """
    (x_train, y_train), (x_test, y_test), (x_private, _) = map(_split, range(3), SPLIT_SIZES)
    arrays = x_train, y_train, x_test, y_test, x_private
    for array in arrays:
        array.setflags(write=False)
    return arrays
