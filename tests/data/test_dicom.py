"""DICOM pictures are shown as their window and photometric interpretation say."""

from __future__ import annotations

import math
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


def test_a_window_of_one_is_a_threshold_half_a_value_below_its_centre(tmp_path: Path):
    # 0.25 x: 9.25, 9.5, 9.75, 10, 11
    values = np.array([[37, 38, 39, 40, 44]], dtype=np.uint16)
    tags = {"RescaleSlope": 0.25, "RescaleIntercept": 0, "WindowCenter": 10, "WindowWidth": 1}
    shown = grey(write(tmp_path / "a.dcm", values, **tags))
    assert [shown[0], *shown[2:]] == [0, 255, 255, 255]


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_windows_are_those_of_the_formulas_of_the_standard(tmp_path: Path, function: str):
    values = np.arange(0, 4000, 13, dtype=np.uint16)[None]
    c, w = 1500.0, 700.0
    rules = {
        "LINEAR": lambda x: (x - (c - 0.5)) / (w - 1) + 0.5,
        "LINEAR_EXACT": lambda x: (x - c) / w + 0.5,
        "SIGMOID": lambda x: 1 / (1 + math.exp(-4 * (x - c) / w)),
    }
    tags = {"WindowCenter": c, "WindowWidth": w, "VOILUTFunction": function}
    expected = [round(255 * min(1, max(0, rules[function](int(x))))) for x in values[0]]
    assert grey(write(tmp_path / "a.dcm", values, **tags)) == expected


def test_a_window_of_which_a_half_is_missing_is_none(tmp_path: Path):
    for tags in ({"WindowCenter": 9}, {"WindowWidth": 9}):
        assert grey(write(tmp_path / "a.dcm", RAMP, **tags)) == [0, 64, 128, 191, 255]


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1023)])
def test_a_table_of_grey_levels_comes_before_a_window(tmp_path: Path, bits: int, top: int):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def table(levels: list[int]) -> Dataset:
        made = Dataset()
        made.add_new(0x00283002, "US", [len(levels), 0, bits])
        made.add_new(0x00283006, "US", levels)
        return made

    shares = [0, 100 / 255, 200 / 255, 1, 128 / 255]
    first, second = table([round(share * top) for share in shares]), table([0] * 5)
    values = np.array([[0, 1, 2, 3, 4]], dtype=np.uint16)
    tags = {"WindowCenter": 2, "WindowWidth": 1, "VOILUTSequence": Sequence([first, second])}
    assert grey(write(tmp_path / "a.dcm", values, **tags)) == [0, 100, 200, 255, 128]
    assert grey(write(tmp_path / "a.dcm", values, PhotometricInterpretation="MONOCHROME1", **tags)) == [
        255,
        155,
        55,
        0,
        127,
    ]


def test_colours_of_a_palette_are_looked_up_and_colours_of_16_bits_shown_in_8(tmp_path: Path):
    tags = {}
    for name, levels in (("Red", [0, 65535, 257]), ("Green", [0, 0, 514]), ("Blue", [65535, 0, 771])):
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = np.array(levels, np.uint16).tobytes()
    values = np.array([[0, 1, 2]], dtype=np.uint8)
    path = write(tmp_path / "a.dcm", values, PhotometricInterpretation="PALETTE COLOR", **tags)
    assert np.asarray(load_image(path))[0].tolist() == [[0, 0, 255], [255, 0, 0], [1, 2, 3]]
    colours = np.array([[[1, 100, 255], [0, 254, 7]]], dtype=np.uint8)
    shown = load_image(write(tmp_path / "b.dcm", colours, PhotometricInterpretation="RGB"))
    np.testing.assert_array_equal(np.asarray(shown), colours)


def test_of_several_frames_the_first_is_shown(tmp_path: Path):
    frames = np.stack([RAMP, RAMP[:, ::-1]])
    path = write(tmp_path / "a.dcm", frames[0], NumberOfFrames=2, PixelData=frames.tobytes())
    assert grey(path) == [0, 64, 128, 191, 255]


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path):
    path = write(tmp_path / "a.dcm", RAMP)
    assert load_image(path, 5).size == (5, 1)
    with pytest.raises(ValueError, match="at most 4 pixels but got 5 x 1 in "):
        load_image(path, 4)
