"""Pictures of any mode and orientation become upright RGB; everything else is named in one line."""

from __future__ import annotations

import hashlib
import inspect
import io
import os
import socket
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from m2ib_lightning.data import images
from m2ib_lightning.data.images import (
    MAX_PIXELS,
    StoredImage,
    check_image,
    fingerprint,
    image_name,
    is_dicom,
    is_same_image,
    load_image,
    open_stored,
    stored_shape,
)

MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "I;16B", "F"]
ORIENTATION = 274
"""The EXIF tag."""


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def halves(size: tuple[int, int] = (32, 16)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, "red")
    image.paste("blue", (size[0] // 2, 0, *size))
    return image


def fault(call, source) -> str:
    """The message that a source is refused with."""
    with pytest.raises(ValueError) as caught:
        call(source)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("Expected ")
    assert " but got " in str(caught.value)
    assert "Remedy: " in str(caught.value)
    return str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(MODES), st.integers(1, 40), st.integers(1, 40), st.integers(1, 8))
def test_every_mode_size_and_orientation_becomes_upright_rgb(mode: str, width: int, height: int, orientation: int):
    image = Image.new(mode, (width, height))
    image.getexif()[ORIENTATION] = orientation
    loaded = load_image(image)
    assert loaded.mode == "RGB"
    assert loaded.size == ((height, width) if orientation >= 5 else (width, height))
    assert image.mode == mode and image.size == (width, height)
    check_image(image)


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (1, 1), (8000, 20)])
def test_a_picture_can_be_one_pixel_or_8000_pixels_wide(tmp_path: Path, size: tuple[int, int]):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", size, (10, 200, 30)).save(tmp_path / name)
        check_image(tmp_path / name)
        loaded = load_image(tmp_path / name)
        assert loaded.size == size
        assert np.abs(pixels(loaded) - [10, 200, 30]).max() <= 2  # JPEG rounds colours


def test_a_file_gives_its_pixels_by_str_and_by_path_and_outlives_its_file(tmp_path: Path):
    path = tmp_path / "a.png"
    halves().save(path)
    by_path, by_str = load_image(path), load_image(str(path))
    path.unlink()
    np.testing.assert_array_equal(pixels(by_path), pixels(halves()))
    np.testing.assert_array_equal(pixels(by_str), pixels(halves()))


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied_once_for_every_format(tmp_path: Path, suffix: str):
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    halves().save(tmp_path / f"a.{suffix}", exif=exif)
    once = load_image(tmp_path / f"a.{suffix}")
    twice = load_image(once)
    assert once.size == twice.size == (16, 32)
    assert pixels(twice)[4, 8, 0] > 200 and pixels(twice)[28, 8, 2] > 200  # left of the file is now the top


def test_a_broken_exif_block_leaves_the_picture_as_stored(tmp_path: Path):
    halves().save(tmp_path / "a.jpg", exif=b"Exif\0\0GARBAGEGARBAGE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_image(tmp_path / "a.jpg").size == (32, 16)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (100, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (255, 0, 0, 255), (255, 0, 0)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # 51 / 255 red over white
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", (0, 0, 0, 255), (0, 0, 0)),
    ],
)
def test_colours_are_kept_and_transparency_shows_white(tmp_path: Path, mode, colour, expected):
    image = Image.new(mode, (3, 2), colour)
    image.save(tmp_path / "a.tif")
    assert load_image(image).getpixel((1, 1)) == expected
    assert load_image(tmp_path / "a.tif").getpixel((1, 1)) == expected


def test_a_transparent_colour_of_palette_and_grey_files_shows_white(tmp_path: Path):
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "palette.png", transparency=0)
    grey = Image.new("L", (2, 1), 5)
    grey.putpixel((0, 0), 3)
    grey.save(tmp_path / "grey.png", transparency=3)
    assert pixels(load_image(tmp_path / "palette.png")).tolist() == [[[255] * 3, [9, 8, 7]]]
    assert pixels(load_image(tmp_path / "grey.png")).tolist() == [[[255] * 3, [5] * 3]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=1, max_size=20))
def test_16_bit_files_are_rescaled_from_the_full_range(values: list[int]):
    file = io.BytesIO()
    Image.fromarray(np.array([values], dtype=np.uint16)).save(file, "PNG")
    expected = [round(value / 257) for value in values]  # 65535 / 255 = 257
    assert pixels(load_image(Image.open(file)))[0, :, 0].tolist() == expected
    assert pixels(load_image(Image.fromarray(np.array([values], dtype=np.int32))))[0, :, 2].tolist() == expected


def test_float_pictures_are_rescaled_from_their_smallest_to_their_largest_value():
    values = np.array([[-1.0, 0.0, 3.0]], dtype=np.float32)
    assert pixels(load_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 64, 255]  # 255 / 4 = 63.75
    assert pixels(load_image(Image.fromarray(np.full((2, 2), 7, np.float32)))).max() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, bad: float):
    Image.fromarray(np.array([[0.0, bad]], dtype=np.float32)).save(tmp_path / "a.tif")
    for call in (load_image, check_image):
        assert "finite pixels" in fault(call, tmp_path / "a.tif")


@pytest.mark.parametrize("bad", [-1, 65536])
def test_integers_outside_of_16_bits_are_refused(bad: int):
    assert f"0..65535 but got {min(bad, 0)}..{max(bad, 0)}" in fault(
        load_image, Image.fromarray(np.array([[0, bad]], dtype=np.int32))
    )


@pytest.mark.parametrize("call", [load_image, check_image])
def test_what_is_no_readable_image_file_is_named(tmp_path: Path, call):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no picture")
    assert "'nowhere.jpg', which does not exist" in fault(call, "nowhere.jpg")
    assert "'', which does not exist" in fault(call, "")
    assert "which does not exist" in fault(call, "a\0b")
    assert f"the folder {tmp_path}" in fault(call, tmp_path)
    assert "empty.jpg, which is empty (0 bytes)" in fault(call, tmp_path / "empty.jpg")
    assert "text.jpg, which is none" in fault(call, tmp_path / "text.jpg")


@pytest.mark.parametrize("call", [load_image, check_image])
@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "bmp", "tif", "webp"])
def test_a_truncated_file_is_named_whatever_its_format(tmp_path: Path, suffix: str, call):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    call(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert f"a.{suffix}" in fault(call, path)


def test_a_truncated_picture_opened_by_the_caller_is_refused():
    file = io.BytesIO()
    halves((64, 64)).save(file, "PNG")
    image = Image.open(io.BytesIO(file.getvalue()[:-40]))
    assert "an image in memory, broken or cut short" in fault(load_image, image)


def test_a_picture_without_pixels_is_refused():
    assert "at least one pixel" in fault(load_image, Image.new("RGB", (0, 3)))


@pytest.mark.parametrize("kind", [None, 3, np.zeros((2, 2, 3), np.uint8)])
def test_other_kinds_are_refused(kind):
    with pytest.raises(TypeError, match=r"Expected a path or a PIL image but got .* Remedy: .*fromarray"):
        load_image(kind)


@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path, suffix: str):
    os.mkfifo(tmp_path / f"pipe{suffix}")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / f"socket{suffix}"))
        paths = [tmp_path / f"pipe{suffix}", tmp_path / f"socket{suffix}", Path("/dev/zero")]
        for path in paths if not suffix else paths[:2]:
            for call in (load_image, check_image, open_stored):
                assert f"an image file but got {path}, a pipe, a socket or a device" in fault(call, path)


def huge_png() -> bytes:
    """The header of a picture of 60,000 x 60,000 pixels, and nothing that could be decoded."""
    file = io.BytesIO()
    Image.new("L", (4, 3)).save(file, "PNG")
    whole = bytearray(file.getvalue())
    whole[16:24] = struct.pack(">II", 60_000, 60_000)
    whole[29:33] = struct.pack(">I", zlib.crc32(whole[12:29]))
    return bytes(whole)


@pytest.mark.parametrize("call", [load_image, check_image, open_stored])
def test_too_many_pixels_are_refused_by_the_header(tmp_path: Path, call, monkeypatch):
    (tmp_path / "a.png").write_bytes(huge_png())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the caller's own limit
    assert "at most 50,000,000 pixels but got 60000 x 60000 in " in fault(call, tmp_path / "a.png")
    assert "--data.max_pixels" in fault(call, StoredImage("a.png", huge_png()))
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_the_limit_of_pixels_is_the_callers(tmp_path: Path):
    Image.new("RGB", (40, 25)).save(tmp_path / "a.png")
    for call in (load_image, check_image):
        call(tmp_path / "a.png", 1000)
        assert "at most 999 pixels but got 40 x 25" in fault(lambda s, call=call: call(s, 999), tmp_path / "a.png")
    assert load_image(Image.new("RGB", (40, 25)), 10).size == (40, 25)  # it is in memory already


@pytest.mark.parametrize(
    ("limit", "size"), [(8000, (100, 80)), (7999, (50, 40)), (2000, (50, 40)), (1999, (25, 20)), (130, (13, 10))]
)
def test_a_large_jpeg_is_halved_while_it_is_read_until_it_fits(tmp_path: Path, limit: int, size: tuple[int, int]):
    halves((100, 80)).save(tmp_path / "a.jpg", quality=95)
    image = load_image(tmp_path / "a.jpg", limit)
    assert image.size == size
    left, right = pixels(image)[:, : size[0] // 4], pixels(image)[:, -(size[0] // 4) :]
    assert left[..., 0].min() > 200 and right[..., 2].min() > 200
    assert "at most 129 pixels but got 13 x 10" in fault(lambda s: load_image(s, 129), tmp_path / "a.jpg")


def test_a_file_is_known_again_by_its_fingerprint(tmp_path: Path):
    path = tmp_path / "a.png"
    halves().save(path)
    before = fingerprint(path)
    size, time, hashed = before.split("-")
    assert (int(size), int(time)) == (path.stat().st_size, path.stat().st_mtime_ns) and len(hashed) == 32
    os.utime(path, ns=(5, 5))
    assert is_same_image(path, before) and is_same_image(StoredImage("in a shard", path.read_bytes()), before)
    assert fingerprint(StoredImage("b", path.read_bytes())).endswith(f"-{hashed}")
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of the same size
    assert not is_same_image(path, before) and not is_same_image(StoredImage("b", b"other"), before)
    path.unlink()
    for unknown in (path, halves(), tmp_path):
        assert is_same_image(unknown, before)  # nothing can be said
    assert is_same_image(tmp_path, "") and fingerprint(halves()) == ""


def test_a_file_of_the_same_size_and_time_is_not_read_again(tmp_path: Path, monkeypatch):
    (tmp_path / "a").write_bytes(b"abc")
    before = fingerprint(tmp_path / "a")
    monkeypatch.setattr("m2ib_lightning.data.images.fingerprint", lambda _: pytest.fail("read"))
    assert is_same_image(tmp_path / "a", before)


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (Image.new("RGB", (1, 1), "red"), "is of one colour"),
        (Image.new("RGBA", (60, 40), (255, 0, 0, 0)), "is of one colour.*transparent"),
        (Image.linear_gradient("L").resize((3000, 40)), "10 to 1 but .* has 3000 x 40"),
        (Image.linear_gradient("L").resize((9, 12)), "14 pixels or more to a side but .* has 9 x 12"),
    ],
)
def test_a_picture_that_says_little_is_read_with_one_line_of_warning(picture: Image.Image, said: str, tmp_path: Path):
    picture.save(tmp_path / "odd.png")
    check_image(tmp_path / "odd.png")  # says nothing: the picture is read later
    with pytest.warns(UserWarning, match=said) as warned:
        load_image(tmp_path / "odd.png")
    (message,) = [str(w.message) for w in warned]
    assert "odd.png" in message and "Remedy: " in message and "\n" not in message


def test_an_ordinary_picture_is_read_without_a_word(recwarn):
    load_image(Image.linear_gradient("L").resize((400, 40)))
    load_image(Image.linear_gradient("L").resize((14, 14)))
    assert not recwarn


@pytest.mark.parametrize(
    ("size", "doubtful"),
    [((13, 40), True), ((14, 40), False), ((140, 14), False), ((141, 14), True), ((20, 201), True), ((20, 200), False)],
)
def test_a_picture_is_doubted_below_14_pixels_and_beyond_ten_to_one_where_it_is_asked_for(size, doubtful):
    picture = Image.linear_gradient("L").resize(size)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        load_image(picture)
    assert [warning.filename for warning in said] == [__file__] * doubtful


def test_two_colours_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(halves())


def test_a_check_decodes_a_jpeg_at_an_eighth_of_its_size(tmp_path: Path, monkeypatch):
    decoded, transpose = [], images.ImageOps.exif_transpose
    monkeypatch.setattr(images.ImageOps, "exif_transpose", lambda image: decoded.append(image.size) or transpose(image))
    halves((96, 64)).save(tmp_path / "a.jpg")
    halves((96, 64)).save(tmp_path / "a.png")
    for call, file in ((check_image, "a.jpg"), (load_image, "a.jpg"), (check_image, "a.png")):
        call(tmp_path / file)
    assert decoded == [(12, 8), (96, 64), (96, 64)]


def test_so_many_pixels_are_decoded_unless_the_caller_says_otherwise():
    assert MAX_PIXELS == 50_000_000
    for call in (load_image, check_image, open_stored):
        assert inspect.signature(call).parameters["max_pixels"].default == MAX_PIXELS


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 65535, 128 * 257], np.int32, [0, 255, 128]),
        ([1, 257, 65534], np.int32, [0, 1, 255]),
        ([-3.0, 5.0, 1.0], np.float32, [0, 255, 128]),
        ([100.0, 200.0, 125.0], np.float32, [0, 255, 64]),
        ([-1e30, 1e30, 0.0], np.float32, [0, 255, 128]),
    ],
)
def test_more_than_8_bits_are_rescaled(values, dtype, expected):
    assert pixels(load_image(Image.fromarray(np.array([values], dtype=dtype))))[0, :, 1].tolist() == expected


def test_how_a_picture_lies_in_its_file_is_read_from_its_header(tmp_path: Path):
    for orientation in (None, 1, 3, 6, 8):
        exif = Image.Exif()
        if orientation:
            exif[ORIENTATION] = orientation
        halves().save(tmp_path / "a.png", exif=exif)
        data = (tmp_path / "a.png").read_bytes()
        for source in (
            tmp_path / "a.png",
            str(tmp_path / "a.png"),
            StoredImage("x", data),
            Image.open(tmp_path / "a.png"),
        ):
            assert stored_shape(source) == (orientation or 1, (32, 16))
    assert stored_shape(Image.new("L", (3, 2))) == (1, (3, 2))
    for other in ("nowhere.png", StoredImage("x", b"none"), tmp_path):
        assert stored_shape(other) == (1, None)
    for name in ("a.dcm", "A.DICOM", StoredImage("in/a.dcm", b"")):
        assert is_dicom(name) and stored_shape(name) == (1, None)
    assert not is_dicom("dcm.png") and not is_dicom(halves())


def test_what_is_wrong_with_stored_pictures_is_said_with_their_names():
    for data, said in (
        (b"", "an image file but got s/a.png, which is empty (0 bytes). Remedy: get the file again."),
        (b"text", "an image file but got s/a.png, which is none. Remedy: convert it to PNG or JPEG."),
    ):
        assert fault(load_image, StoredImage("s/a.png", data)) == f"Expected {said}"
    small = StoredImage("s/a.png", b"x")
    assert "which is none" in fault(check_image, small) and image_name(small) == "s/a.png"
    assert image_name(halves()) == "an image in memory" and image_name(Path("a/b.png")) == "a/b.png"


def test_a_file_of_one_byte_is_not_empty(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"x")
    assert "a.png, which is none" in fault(load_image, tmp_path / "a.png")


def test_a_fingerprint_is_of_all_of_a_large_file(tmp_path: Path):
    data = bytes(range(256)) * 9000  # more than two of the blocks that are read
    (tmp_path / "a").write_bytes(data)
    hashed = hashlib.blake2b(data, digest_size=16).hexdigest()
    assert fingerprint(tmp_path / "a").endswith(f"-{hashed}") and fingerprint(tmp_path / "a").startswith(
        f"{len(data)}-"
    )
    assert fingerprint(StoredImage("x", data)) == f"{len(data)}--{hashed}"


def test_a_file_that_cannot_be_looked_at_is_taken_for_the_same(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    before = fingerprint(tmp_path / "a")
    assert is_same_image("a\0b", before) and is_same_image(tmp_path / "gone", before)
    (tmp_path / "a").write_bytes(b"abcd")
    assert not is_same_image(tmp_path / "a", before)
    assert is_same_image(halves(), before) and is_same_image(StoredImage("x", b"abc"), before)
    assert not is_same_image(StoredImage("x", b"abd"), before)
