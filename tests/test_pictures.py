"""sources/pictures.py: any PNG or JPEG becomes what a person sees in it, or is refused by name."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from tiny import encoded

import DataLoader
from machine.errors import DataError

GENERATOR = np.random.default_rng(0)
COLOUR = GENERATOR.integers(0, 256, (32, 32, 3), np.uint8)
GREY = COLOUR[..., 0]


def png(bits, colour_type, rows, *chunks):
    """A PNG of 32 rows of 32 pixels, built by hand: Pillow writes few kinds of 16 bits."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 32, 32, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def read(tmp_path, content, name="picture.png"):
    """The one picture of a file, and what is said of it."""
    (tmp_path / name).write_bytes(content)
    images = DataLoader.load_testing_images(tmp_path / name)
    assert (images.names, images.count) == ([name], 1)
    (batch,) = images.batches(5)
    assert batch.dtype == np.uint8 and batch.shape == (1, 32, 32, 3)
    return batch[0], " ".join(images.notes)


def grey3(grey):
    return np.stack([grey] * 3, axis=-1)


def on_white(colour, alpha):
    colour, alpha = colour.astype(float), alpha[..., None] / 255
    return colour * alpha + 255 * (1 - alpha)


# Kinds of pixels


def test_eight_bits_without_transparency_are_kept_exactly(tmp_path):
    picture = Image.fromarray(COLOUR)
    found, notes = read(tmp_path, encoded(picture))
    np.testing.assert_array_equal(found, COLOUR)
    assert notes == ""
    found, notes = read(tmp_path, encoded(picture.convert("RGBA")))
    np.testing.assert_array_equal(found, COLOUR)
    assert notes == ""
    found, notes = read(tmp_path, encoded(Image.fromarray(GREY)))
    np.testing.assert_array_equal(found, grey3(GREY))
    assert notes == "1 of 1 picture was grey."
    palette = picture.quantize(16)
    found, notes = read(tmp_path, encoded(palette))
    np.testing.assert_array_equal(found, np.asarray(palette.convert("RGB")))
    assert "palette" in notes


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("transparent", [False, True])
def test_few_bits_of_grey_span_black_to_white(tmp_path, bits, transparent):
    levels = GENERATOR.integers(0, 2**bits, (32, 32))
    rows = [
        np.packbits((row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes()
        for row in levels
    ]
    chunks = [(b"tRNS", struct.pack(">H", 0))] * transparent
    found, notes = read(tmp_path, png(bits, 0, rows, *chunks))
    expected = np.where(levels == 0, 2**bits - 1, levels) if transparent else levels
    np.testing.assert_array_equal(found, grey3(expected * 255 // (2**bits - 1)))
    assert ("white" in notes) == transparent


@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_become_eight_and_say_so(tmp_path, transparent, colour_type, channels):
    values = GENERATOR.integers(0, 2**16, (32, 32, channels))
    chunks = []
    alpha = values[..., -1] / 65535 if channels in (2, 4) else np.ones((32, 32))
    if transparent and channels in (1, 3):
        values[5:9, 5:9] = 12_345
        chunks = [(b"tRNS", struct.pack(f">{channels}H", *[12_345] * channels))]
        alpha[5:9, 5:9] = 0
    found, notes = read(
        tmp_path, png(16, colour_type, [row.astype(">u2").tobytes() for row in values], *chunks)
    )
    colour = values[..., :3] if channels >= 3 else values[..., :1]
    assert (
        np.abs(found - on_white(colour / 257, 255 * alpha)).max() < 2.6
    )  # the low bytes are dropped
    assert "16 bits" in notes


def test_transparency_is_laid_on_white(tmp_path):
    alpha = GENERATOR.integers(0, 256, (32, 32), np.uint8)
    found, notes = read(tmp_path, encoded(Image.fromarray(np.dstack([COLOUR, alpha]))))
    assert np.abs(found - on_white(COLOUR, alpha)).max() <= 1
    assert "1 of 1 picture was laid on white" in notes
    found, notes = read(tmp_path, encoded(Image.fromarray(np.dstack([GREY, alpha]))))
    assert np.abs(found - on_white(grey3(GREY), alpha)).max() <= 1
    palette = Image.fromarray(GREY // 64 * 85).convert("P")
    found, notes = read(tmp_path, encoded(palette, transparency=85))
    expected = np.where(GREY // 64 == 1, 255, GREY // 64 * 85)
    np.testing.assert_array_equal(found, grey3(expected))
    hidden = encoded(Image.fromarray(COLOUR), transparency=tuple(map(int, COLOUR[3, 4])))
    found, notes = read(tmp_path, hidden)
    assert found[3, 4].tolist() == [255] * 3 and "white" in notes


def test_jpegs_of_each_colour_space_are_read(tmp_path):
    smooth = Image.fromarray(COLOUR).resize((4, 4)).resize((32, 32))
    for mode, said in (("RGB", None), ("L", "grey"), ("CMYK", "CMYK")):
        content = encoded(smooth.convert(mode), "JPEG", quality=95)
        found, notes = read(tmp_path, content, "photo.JPG")
        expected = np.asarray(smooth.convert(mode).convert("RGB")).astype(int)
        assert np.abs(found - expected).mean() < 4
        assert said in notes if said else not notes
    several = encoded(smooth, "MPO", save_all=True, append_images=[smooth], quality=95)
    found, _ = read(tmp_path, several, "phone.jpg")
    assert np.abs(found.astype(int) - np.asarray(smooth)).mean() < 4


# Size and orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind, name", [("PNG", "a.png"), ("JPEG", "a.jpg")])
def test_a_picture_stands_as_its_camera_held_it(tmp_path, orientation, kind, name):
    upright = Image.fromarray(np.array([[0, 80], [160, 240]], np.uint8)).resize((32, 32), 0)
    # What a camera stores is what its orientation undoes.
    stored = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda x: np.rot90(x, 1),
        7: lambda x: np.rot90(x, 2).T,
        8: lambda x: np.rot90(x, -1),
    }[orientation](np.asarray(upright))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(np.ascontiguousarray(stored)).convert("RGB")
    found, notes = read(tmp_path, encoded(picture, kind, exif=exif), name)
    assert np.abs(found[..., 0].astype(int) - np.asarray(upright)).max() < 4
    assert ("turned upright" in notes) == (orientation > 1)


def test_any_size_is_cropped_in_the_middle_and_resized_smoothly(tmp_path):
    # Fine stripes turn grey: without antialiasing some would stay black or white.
    stripes = np.zeros((320, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    stripes[:, :150], stripes[:, -150:] = (255, 0, 0), (0, 0, 255)
    found, notes = read(tmp_path, encoded(Image.fromarray(stripes)))
    assert np.abs(found.astype(int) - 127).max() < 12
    assert notes == "1 of 1 picture was resized."
    for size in ((1, 1), (7, 200), (33, 32), (3000, 2)):
        found, notes = read(tmp_path, encoded(Image.new("RGB", size, (9, 99, 199))))
        assert (found == (9, 99, 199)).all() and "resized" in notes


# Folders


def test_a_folder_is_read_in_natural_order_with_its_names(tmp_path):
    order = ["1.png", "2.PNG", "10.png", "a2b1.png", "A2b3.png", "a2b20.png", "²7.png"]
    for level, name in enumerate(order):
        size = (64, 32) if level < 3 else (32, 32)
        Image.new("RGB", size, (level,) * 3).save(tmp_path / name, "PNG")
    (tmp_path / ".hidden").write_text("ignored")
    images = DataLoader.load_testing_images(tmp_path)
    assert images.names == order
    assert images.source == tmp_path.name and images.notes == ["3 of 7 pictures were resized."]
    batches = list(images.batches(3))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], range(7))


SOUND_PNG = encoded(Image.fromarray(COLOUR))
SOUND_JPEG = encoded(
    Image.fromarray(np.kron(COLOUR[:8, :8], np.ones((30, 30, 1), np.uint8))), "JPEG"
)
WRONG_CHECKSUM = bytearray(SOUND_PNG)
WRONG_CHECKSUM[SOUND_PNG.index(b"IEND") - 5] ^= 1
DAMAGED = {
    "empty.png": b"",
    "page.png": b"<!doctype html><html>sign in</html>",
    "cut.png": SOUND_PNG[:-100],
    "half.png": SOUND_PNG[: len(SOUND_PNG) // 2],
    "head.png": SOUND_PNG[:40],
    "checksum.png": bytes(WRONG_CHECKSUM),
    "no pixels.png": SOUND_PNG[:33] + SOUND_PNG[-12:],
    "cut.jpg": SOUND_JPEG[: len(SOUND_JPEG) // 2],
    "zeros.jpg": SOUND_JPEG[: len(SOUND_JPEG) // 2] + bytes(len(SOUND_JPEG) // 2),
    "bitmap.png": encoded(Image.fromarray(COLOUR), "BMP"),
    "notes.txt": b"not a picture",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_picture_is_refused_by_name_or_left_out(tmp_path, name):
    (tmp_path / "sound.png").write_bytes(SOUND_PNG)
    (tmp_path / name).write_bytes(DAMAGED[name])
    with pytest.raises(DataError, match=f"{name}: expected a sound PNG or JPEG") as error:
        DataLoader.load_testing_images(tmp_path)
    assert "\n" not in str(error.value)
    images = DataLoader.load_testing_images(tmp_path, skip_damaged=True)
    assert images.names == ["sound.png"] and images.count == 1
    assert images.notes == [f"1 of 2 pictures was left out as damaged: {name}."]
    (tmp_path / "sound.png").unlink()
    with pytest.raises(DataError, match="found none"):
        DataLoader.load_testing_images(tmp_path, skip_damaged=True)


def test_a_picture_of_more_pixels_than_pillow_finds_safe_is_refused(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32)
    assert DataLoader.load_testing_images(tmp_path / "bomb.png").count == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 32 * 32 - 1)  # Pillow itself would only warn
    with pytest.raises(DataError, match=r"bomb\.png"):
        DataLoader.load_testing_images(tmp_path / "bomb.png")


def test_a_name_from_an_old_archive_is_written_out(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / os.fsdecode(b"bild_\xfc.png"))
    Image.fromarray(COLOUR).save(tmp_path / "ü.png")
    assert DataLoader.load_testing_images(tmp_path).names == ["bild_\\xfc.png", "ü.png"]


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="empty folder"):
        DataLoader.load_testing_images(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it
    with pytest.raises(DataError, match=r"pipe\.png"):
        DataLoader.load_testing_images(tmp_path)
    (tmp_path / "pipe.png").unlink()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(DataError, match=r"folder\.png"):
        DataLoader.load_testing_images(tmp_path)


# PngSuite, by Willem van Schaik


def test_pngsuite_is_read_as_an_independent_decoder_reads_it():
    if "PNGSUITE_DIR" not in os.environ:
        pytest.skip("PNGSUITE_DIR does not name a folder of PngSuite")
    import tensorflow as tf

    paths = sorted(Path(os.environ["PNGSUITE_DIR"]).glob("*.png"))
    assert len(paths) > 150
    for path in paths:
        if path.name.startswith("x"):  # corrupt by intention
            with pytest.raises(DataError, match=path.name):
                DataLoader.load_testing_images(path)
            continue
        content = path.read_bytes()
        transparent = content[25] in (4, 6) or b"tRNS" in content
        dtype = tf.uint16 if content[24] == 16 else tf.uint8
        channels = 4 if transparent else 3
        expected = tf.io.decode_png(content, channels, dtype).numpy() / dtype.max * 255
        if transparent:
            expected = on_white(expected[..., :3], expected[..., 3])
        if expected.shape[:2] != (32, 32):
            expected = ImageOps.fit(Image.fromarray(np.rint(expected).astype(np.uint8)), (32, 32))
        (found,) = next(DataLoader.load_testing_images(path).batches(1))
        assert np.abs(found - np.asarray(expected, float)).max() < 1, path.name
