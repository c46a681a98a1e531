import base64
import io

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from m2ib_lightning.inline import bytes_text, number, png_address, small_address

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8))


def opened(address: str, kind: str) -> tuple[bytes, Image.Image]:
    before, _, after = address.partition(",")
    assert before == f"data:image/{kind};base64"
    data = base64.b64decode(after)
    return data, Image.open(io.BytesIO(data))


def test_values_are_rounded_bytes_and_numbers_have_four_digits_or_none():
    assert base64.b64decode(bytes_text(np.array([[0.4, 0.6], [254.7, 7.0]]))) == bytes([0, 1, 255, 7])
    found = [number(value) for value in (1234.56, -0.000123456, 0, float("nan"), float("inf"))]
    assert found == [1235, -0.0001235, 0, None, None]


def test_a_small_picture_is_webp_of_quality_82_with_its_longer_side_as_asked():
    data, image = opened(small_address(PICTURE.convert("RGBA"), 20), "webp")
    assert (image.format, image.size, image.mode) == ("WEBP", (20, 10), "RGB")
    expected, file = PICTURE.copy(), io.BytesIO()
    expected.thumbnail((20, 20))
    expected.save(file, "WEBP", quality=82)
    assert data == file.getvalue() and PICTURE.size == (60, 30)
    assert opened(small_address(PICTURE, 20, quality=10), "webp")[0] != data
    assert opened(small_address(PICTURE, 100), "webp")[1].size == (60, 30)


def test_pictures_and_figures_are_png():
    np.testing.assert_array_equal(np.asarray(opened(png_address(PICTURE), "png")[1]), np.asarray(PICTURE))
    _, drawn = opened(png_address(Figure(figsize=(2, 1), dpi=50)), "png")
    assert (drawn.format, drawn.size) == ("PNG", (100, 50))
