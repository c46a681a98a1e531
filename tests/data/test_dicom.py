"""DICOM pictures are shown as their window and photometric interpretation say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.data import PairDataModule, check_image, load_image

pydicom = pytest.importorskip("pydicom")


def write(path: Path, values: np.ndarray, **tags) -> Path:
    """An uncompressed file as an X-ray machine writes it."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.Rows, data.Columns = values.shape[:2]
    data.SamplesPerPixel = 1 if values.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2"
    bits = values.dtype.itemsize * 8
    data.BitsAllocated = data.BitsStored = bits
    data.HighBit, data.PixelRepresentation = bits - 1, int(values.dtype.kind == "i")
    if values.ndim == 3:
        data.PlanarConfiguration = 0
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path)
    return path


def grey(path: Path) -> list[int]:
    image = load_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)[0, :, 0].tolist()


RAMP = np.array([[0, 1000, 2000, 3000, 4000]], dtype=np.uint16)


def test_without_a_window_the_smallest_value_is_black_and_the_largest_white(tmp_path: Path):
    assert grey(write(tmp_path / "a.dcm", RAMP)) == [0, 64, 128, 191, 255]
    assert grey(write(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="MONOCHROME1")) == [255, 191, 127, 64, 0]
    assert grey(write(tmp_path / "a.DICOM", np.full((2, 2), 7, np.uint16))) == [0, 0]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # (x - (c - 0.5)) / (w - 1) + 0.5: 999.5 / 1999 + ... is 0 up to 1000 and 1 from 2999
        ({"WindowCenter": 2000, "WindowWidth": 2000}, [0, 0, 128, 255, 255]),
        ({"WindowCenter": [2000, 1], "WindowWidth": [2000, 1]}, [0, 0, 128, 255, 255]),
        ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "LINEAR_EXACT"}, [0, 64, 128, 191, 255]),
        # 255 / (1 + exp(-4 (x - 2000) / 4000)): exp(2) and exp(1)
        ({"WindowCenter": 2000, "WindowWidth": 4000, "VOILUTFunction": "SIGMOID"}, [30, 69, 128, 186, 225]),
        ({"WindowCenter": 2500, "WindowWidth": 1}, [0, 0, 0, 255, 255]),
        # 0.5 x - 1000: -1000, -500, 0, 500, 1000
        (
            {"RescaleSlope": 0.5, "RescaleIntercept": -1000, "WindowCenter": 0.5, "WindowWidth": 1001},
            [0, 0, 128, 255, 255],
        ),
    ],
)
def test_the_window_is_that_of_the_standard(tmp_path: Path, tags: dict, expected: list[int]):
    shown = grey(write(tmp_path / "a.dcm", RAMP, **tags))
    assert np.abs(np.subtract(shown, expected)).max() <= 1  # half a grey level of rounding
    turned = grey(write(tmp_path / "a.dcm", RAMP, PhotometricInterpretation="MONOCHROME1", **tags))
    assert np.add(shown, turned).tolist() == [255] * 5


def test_a_window_of_ten_values_goes_from_black_to_white_over_ten(tmp_path: Path):
    values = np.array([[4, 5, 6, 13, 14, 15]], dtype=np.uint16)
    shown = grey(write(tmp_path / "a.dcm", values, WindowCenter=10, WindowWidth=10))
    assert shown == [0, 0, round(255 / 9), round(8 * 255 / 9), 255, 255]


def test_signed_values_and_colours_are_read(tmp_path: Path):
    signed = np.array([[-1000, 0, 1000]], dtype=np.int16)
    assert grey(write(tmp_path / "a.dcm", signed)) == [0, 128, 255]
    colours = np.array([[[255, 0, 0], [0, 10, 20]]], dtype=np.uint8)
    shown = load_image(write(tmp_path / "a.dcm", colours, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(np.asarray(shown), colours)


def test_broken_files_are_named(tmp_path: Path):
    whole = write(tmp_path / "a.dcm", np.zeros((64, 64), np.uint16)).read_bytes()
    (tmp_path / "cut.dcm").write_bytes(whole[:-1000])
    (tmp_path / "text.dcm").write_text("no picture")
    (tmp_path / "empty.dcm").touch()
    for name, reason in (
        ("cut", "broken or cut"),
        ("text", "broken or cut"),
        ("empty", "empty"),
        ("gone", "not exist"),
    ):
        for call in (load_image, check_image):
            with pytest.raises(ValueError, match=rf"^Expected .*{name}.dcm.*{reason}.* Remedy: .*$"):
                call(tmp_path / f"{name}.dcm")


def test_a_folder_of_dicom_files_with_captions_is_read(tmp_path: Path):
    write(tmp_path / "a.dcm", RAMP)
    (tmp_path / "a.txt").write_text("a ramp")
    data = PairDataModule(source=str(tmp_path))
    data.setup("predict")
    (pair,) = next(iter(data.predict_dataloader()))
    assert (pair.id, pair.text, pair.image.size) == ("a", "a ramp", (5, 1))


def test_without_pydicom_the_extra_is_named_and_no_pair_is_blamed(tmp_path: Path, monkeypatch):
    write(tmp_path / "a.dcm", RAMP)
    (tmp_path / "a.txt").write_text("a ramp")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    data = PairDataModule(source=str(tmp_path))
    data.setup("predict")
    with pytest.raises(RuntimeError, match=r"pydicom to be installed.* Remedy: pip install m2ib_lightning\[dicom\]"):
        next(iter(data.predict_dataloader()))
    assert load_image(Image.new("L", (1, 1))).size == (1, 1)
