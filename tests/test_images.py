"""Every kind of image file → (H, W, 3) uint8 RGB, or one line why not."""

import base64
import io
import struct
import subprocess
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from discovery.errors import DataError
from discovery.images import (
    decode_batches,
    decode_image,
    map_ahead,
    read_image,
    resize,
    thumbnail_data_url,
)

LIMIT = 1_000_000
RED, GREEN, BLUE = (200, 30, 40), (30, 180, 50), (20, 40, 220)


def halves(width: int = 48, height: int = 32) -> np.ndarray:
    """Returns an image whose left half is red and right half is blue."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = RED, BLUE
    return image


def near(pixel: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= within)


def png_announcing(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in chunks)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif", "ppm"])
def test_every_format_gives_the_same_writable_rgb(tmp_path, suffix):
    path = tmp_path / f"a photo, größer 照片.{suffix}"
    Image.fromarray(halves()).save(path)
    image = read_image(path, max_pixels=LIMIT)
    assert image.shape == (32, 48, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert near(image[16, 6], RED, 40)
    assert near(image[16, 42], BLUE, 40)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "RGBA", "LA", "YCbCr"])
def test_every_mode_keeps_its_brightness(tmp_path, mode):
    path = tmp_path / "image.tif"
    Image.fromarray(halves()).convert("L").convert("RGB").convert(mode).save(path)
    image = read_image(path, max_pixels=LIMIT)
    expected = np.asarray(Image.fromarray(halves()).convert("L").convert("RGB"))
    if mode == "1":
        assert set(np.unique(image)) <= {0, 255}
    else:
        assert near(image.reshape(-1, 3).mean(axis=0), tuple(expected.reshape(-1, 3).mean(axis=0)), 8)
    assert image.shape == expected.shape


def test_cmyk_jpeg_keeps_its_colours(tmp_path):
    path = tmp_path / "print.jpg"
    Image.fromarray(halves()).convert("CMYK").save(path, quality=95)
    image = read_image(path, max_pixels=LIMIT)
    assert near(image[16, 6], RED, 25)
    assert near(image[16, 42], BLUE, 25)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_is_scaled_and_not_clipped(tmp_path, suffix):
    deep = np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / f"deep.{suffix}")
    image = read_image(tmp_path / f"deep.{suffix}", max_pixels=LIMIT)
    assert (image == (deep >> 8)[:, :, None]).all()
    assert image.min() == 0
    assert image.max() == 255


def test_float_pixels_are_refused_as_they_have_no_range(tmp_path):
    Image.fromarray(np.ones((8, 8), np.float32)).save(tmp_path / "heat.tif")
    with pytest.raises(DataError, match="mode F have no fixed range; save it with 8 or 16 bits"):
        read_image(tmp_path / "heat.tif", max_pixels=LIMIT)


def test_alpha_is_composited_on_white(tmp_path):
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = (*RED, 255)
    image[:, 4:] = (0, 0, 0, 0)
    Image.fromarray(image).save(tmp_path / "cut out.png")
    read = read_image(tmp_path / "cut out.png", max_pixels=LIMIT)
    assert (read[:, :4] == RED).all()
    assert (read[:, 4:] == 255).all()


def test_transparent_palette_entries_become_white(tmp_path):
    image = Image.fromarray(np.repeat(np.array([[0, 1]], np.uint8), 4, axis=1).repeat(4, axis=0), "P")
    image.putpalette([*RED, *BLUE])
    image.save(tmp_path / "icon.png", transparency=bytes([255, 0]))
    read = read_image(tmp_path / "icon.png", max_pixels=LIMIT)
    assert (read[0, 0] == RED).all()
    assert (read[0, -1] == 255).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize(("orientation", "place"), [(3, (16, 42)), (6, (6, 16)), (8, (42, 16))])
def test_exif_rotation_moves_the_pixels(tmp_path, suffix, orientation, place):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(halves()).save(tmp_path / f"phone.{suffix}", exif=exif)
    image = read_image(tmp_path / f"phone.{suffix}", max_pixels=LIMIT)
    assert image.shape == ((32, 48, 3) if orientation == 3 else (48, 32, 3))
    assert near(image[place], RED, 30)


@pytest.mark.filterwarnings("ignore::UserWarning")  # as the module does, whose own filter pytest replaces
def test_damaged_exif_is_no_reason_to_lose_the_image(tmp_path):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    Image.fromarray(halves()).save(tmp_path / "camera.jpg", exif=exif)
    assert read_image(tmp_path / "camera.jpg", max_pixels=LIMIT).shape == (32, 48, 3)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animated_gives_its_first_frame(tmp_path, suffix):
    frames = [Image.new("RGB", (16, 12), colour) for colour in (RED, GREEN, BLUE)]
    frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(tmp_path / f"moving.{suffix}") as moving:
        assert moving.n_frames == 3
    image = read_image(tmp_path / f"moving.{suffix}", max_pixels=LIMIT)
    assert image.shape == (12, 16, 3)
    assert near(image[6, 8], RED)


def whole_jpeg() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", r"the file is empty \(0 bytes\)"),
        (b"this is a text file", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (whole_jpeg()[:1500], "corrupt or truncated"),
        (whole_jpeg()[:-40], "corrupt or truncated"),
        (whole_jpeg()[:700] + bytes(300) + b"\xff\xc4" * 40, "corrupt or truncated"),
        (png_announcing(64, 64), "corrupt or truncated"),
        (png_announcing(60_000, 60_000), "60000 x 60000 pixels, more than dataset.max_pixels = 1000000"),
        (png_announcing(10_000, 10_000), "10000 x 10000 pixels, more than dataset.max_pixels = 1000000"),
    ],
    ids=[
        "zero bytes",
        "text",
        "eps",
        "truncated",
        "cut end",
        "corrupt",
        "png",
        "bomb",
        "bomb Pillow warns of",
    ],
)
def test_unusable_file_is_one_line_that_names_path_and_reason(tmp_path, content, reason):
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason) as caught:
        read_image(path, max_pixels=LIMIT)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=reason) as bare:
        decode_image(path, max_pixels=LIMIT)
    assert str(path) not in str(bare.value)


def test_missing_file_and_folder_are_said_to_be_missing(tmp_path):
    for path in (tmp_path / "absent.jpg", tmp_path):
        with pytest.raises(DataError, match="no such file"):
            read_image(path, max_pixels=LIMIT)


def test_max_pixels_is_the_only_limit_and_counts_whole_images(tmp_path):
    Image.new("RGB", (100, 10)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=1000).shape == (10, 100, 3)
    with pytest.raises(DataError, match=r"more than dataset\.max_pixels = 999"):
        read_image(tmp_path / "a.png", max_pixels=999)


def test_nothing_is_written_to_stderr_about_a_bomb_or_damaged_exif(tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_announcing(10_000, 10_000))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x09\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\0\0"
    Image.fromarray(halves()).save(tmp_path / "camera.jpg", exif=exif)
    code = (
        "import contextlib; from discovery.images import read_image\n"
        f"read_image({str(tmp_path / 'camera.jpg')!r}, max_pixels={LIMIT})\n"
        f"with contextlib.suppress(ValueError):\n"
        f"    read_image({str(tmp_path / 'bomb.png')!r}, max_pixels={LIMIT})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_larger_images_are_shrunk_to_the_longer_side(tmp_path, suffix):
    Image.fromarray(halves(400, 300)).save(tmp_path / f"large.{suffix}")
    image = read_image(tmp_path / f"large.{suffix}", max_pixels=LIMIT, max_side_px=80)
    assert image.shape == (60, 80, 3)
    assert near(image[30, 10], RED)
    assert read_image(tmp_path / f"large.{suffix}", max_pixels=LIMIT, max_side_px=900).shape == (300, 400, 3)


def test_batches_keep_the_order_and_the_last_one_is_short(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(7)]
    for i, path in enumerate(paths):
        Image.new("RGB", (4 + i, 4), (i, i, i)).save(path)
    batches = list(decode_batches(paths, 3, max_pixels=LIMIT))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert [int(image[0, 0, 0]) for batch in batches for image in batch] == list(range(7))
    assert list(decode_batches([], 3, max_pixels=LIMIT)) == []


def test_batches_give_what_is_due_before_the_error_that_names_the_path(tmp_path):
    Image.fromarray(halves()).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    batches = decode_batches([tmp_path / "good.png"] * 2 + [tmp_path / "bad.png"], 2, max_pixels=LIMIT)
    assert len(next(batches)) == 2
    with pytest.raises(DataError, match=r"bad\.png: the file is empty"):
        next(batches)


def test_work_runs_ahead_but_no_further_than_told():
    started, lock = [], threading.Lock()

    def work(item: int) -> int:
        with lock:
            started.append(item)
        return item

    results = map_ahead(work, range(100), ahead=5)
    assert next(results) == 0
    deadline = time.monotonic() + 5
    while len(started) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    assert sorted(started) == list(range(6))
    results.close()
    assert len(started) == 6


@pytest.mark.parametrize("size", [(10, 14), (100, 20), (7, 90)])
def test_resize_agrees_with_an_antialiased_reference_up_and_down(size):
    image = np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    image.flags.writeable = False
    reference = np.asarray(Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    resized = resize(image, *size)
    assert resized.shape == (*size, 3)
    assert resized.flags.c_contiguous
    assert np.abs(resized.astype(int) - reference).max() <= 2


def test_thumbnail_is_a_small_jpeg_that_a_page_can_hold():
    url = thumbnail_data_url(halves(400, 300), 80)
    assert url.startswith("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert image.size == (80, 60)
    assert near(np.asarray(image)[30, 10], RED)
    small = thumbnail_data_url(halves(20, 10), 80)
    assert Image.open(io.BytesIO(base64.b64decode(small.partition(",")[2]))).size == (20, 10)
