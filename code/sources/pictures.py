"""PNG and JPEG files of any size and kind to uint8 ``[32, 32, 3]``, by Pillow."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps
from tqdm import tqdm

from machine.errors import DataError
from sources.arrays import SIDE

_NAMED = 10  # damaged pictures
_CONVERTED = {
    **dict.fromkeys(("1", "L", "LA", "I;16"), "grey"),
    "P": "converted from a palette",
    "CMYK": "converted from CMYK",
}


def list_pictures(folder: Path) -> list[Path]:
    """List everything in a folder but hidden files, in natural order: 2.png before 10.png.

    Raises:
        DataError: the folder cannot be read, or is empty.
    """
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}; name another") from error
    if not paths:
        raise DataError(f"{folder}: expected PNG or JPEG pictures, found an empty folder; add some")

    def natural(path: Path) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", path.name)  # those with odd numbers are the digits
        return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], path.name

    return sorted(paths, key=natural)


def read_pictures(
    paths: Sequence[Path], skip_damaged: bool = False
) -> tuple[np.ndarray, list[str], list[str]]:
    """Read PNG and JPEG files into memory, 3 KB each.

    A picture is turned upright by its EXIF orientation, laid on white where it is transparent,
    reduced to 8 bits a channel by dropping the low byte, converted to RGB (colour profiles are not
    applied), cropped to the square in its middle, and resized with antialiasing unless it is 32x32.

    Refused are files that are truncated, whose PNG checksums are wrong, that Pillow cannot decode,
    or that declare more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``. Of a JPEG with wrong bytes in
    the middle but a sound end, Pillow tells nothing: it has no checksum, and is read as it is.

    Args:
        paths: the files.
        skip_damaged: leave out what is refused instead of raising.

    Returns:
        uint8 ``[N, 32, 32, 3]``, the N file names, and one sentence for each kind of change.

    Raises:
        DataError: a file is refused, or none is left.
    """
    pictures, names, changes, damaged = [], [], Counter(), []
    for path in tqdm(paths, unit=" pictures", disable=None, leave=False):
        try:
            picture, what = _read(path)
        except Exception as error:  # Pillow's decoders raise many kinds
            if not skip_damaged:
                raise DataError(
                    f"{path}: expected a sound PNG or JPEG picture, found: "
                    f"{' '.join(str(error).split())[:200]}; replace it or take it out (predict can "
                    "do without it: --skip-damaged)"
                ) from error
            damaged.append(printable(path.name))
            continue
        pictures.append(picture)
        names.append(printable(path.name))
        changes.update(what)
    if not pictures:
        raise DataError(f"{paths[0]}: expected a sound PNG or JPEG picture, found none; add some")
    if damaged:
        more = f" and {len(damaged) - _NAMED:,} more" * (len(damaged) > _NAMED)
        changes[f"left out as damaged: {', '.join(damaged[:_NAMED])}{more}"] = len(damaged)
    total = f"{len(paths):,} picture{'s' * (len(paths) > 1)}"
    notes = [
        f"{n:,} of {total} {'was' if n == 1 else 'were'} {what}." for what, n in changes.items()
    ]
    return np.stack(pictures), names, notes


def printable(name: str) -> str:
    """Replace the bytes in a file's name that are no UTF-8, as in old archives."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read(path: Path) -> tuple[np.ndarray, list[str]]:
    """Give one picture, and what was changed in it."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg") or not os.path.isfile(path):
        raise ValueError("no file whose name ends in .png, .jpg or .jpeg")
    changes, formats = [], ("PNG", "JPEG")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=formats) as picture:
            if not picture.tile:
                raise ValueError("no pixels in it")
            picture.verify()  # compares the checksums of a PNG, and uses the file up
        with Image.open(path, formats=formats) as original:
            picture = ImageOps.exif_transpose(original)
            if original.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
                changes.append("turned upright by the EXIF orientation")
            depth = path.read_bytes()[24] if original.format == "PNG" else 8
    if depth == 16:
        changes.append("reduced from 16 bits a channel to 8")
    if picture.mode in _CONVERTED:
        changes.append(_CONVERTED[picture.mode])
    picture = _mend_transparency(picture, depth)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getextrema()[3][0] < 255:
            changes.append("laid on white where transparent")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    if picture.size != (SIDE, SIDE):
        changes.append("resized")
        picture = ImageOps.fit(picture, (SIDE, SIDE))
    return np.asarray(picture), changes


def _mend_transparency(picture: Image.Image, depth: int) -> Image.Image:
    """Do what Pillow leaves undone for PNGs of other than 8 bits.

    It scales pixels to 8 bits but not the one colour that is transparent, and cuts 16-bit grey off
    at 255 instead of scaling it. In 16-bit RGB, that colour is compared by the high bytes.
    """
    colour = picture.info.get("transparency")
    if picture.mode == "I;16":
        values = np.asarray(picture)
        opaque = np.full(values.shape, 255) if colour is None else 255 * (values != colour)
        channels = [Image.fromarray(x.astype(np.uint8)) for x in (values >> 8, opaque)]
        return Image.merge("LA", channels)
    if colour is not None and picture.mode == "L":
        picture.info["transparency"] = colour * 255 // (2**depth - 1)
    elif colour is not None and picture.mode == "RGB" and depth == 16:
        picture.info["transparency"] = tuple(value >> 8 for value in colour)
    return picture
