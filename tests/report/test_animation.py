import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.report.animation import END, STEP, save_animation


def ramp(level: int) -> Image.Image:
    """A white picture with a scale at its top that stands still, and below it a gradient that moves."""
    pixels = np.full((40, 96, 3), 255, np.uint8)
    pixels[2:6, :48, 0] = np.linspace(0, 250, 48)
    pixels[10:30, 10:80] = np.stack([np.linspace(level, 200, 70), np.full(70, level), np.full(70, 90)], axis=-1)
    return Image.fromarray(pixels)


def frames_of(path) -> list[np.ndarray]:
    with Image.open(path) as animation:
        found = []
        for i in range(animation.n_frames):
            animation.seek(i)
            found.append(np.asarray(animation.convert("RGB")).astype(int))
        return found


def test_what_stands_still_is_the_same_in_every_frame_and_colours_stay_close(tmp_path):
    frames = [ramp(level) for level in (0, 40, 80, 120)]
    save_animation(frames, tmp_path / "a.gif")
    found = frames_of(tmp_path / "a.gif")
    assert len(found) == 4
    for drawn, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(drawn[:8], found[0][:8])
        assert (drawn[0] == 255).all()
        # 192 colours for 70 different ones, kept to 7 bits
        assert np.abs(drawn - np.asarray(frame)).max() <= 8


def test_the_last_frame_stays_longest_and_the_animation_repeats(tmp_path):
    save_animation([ramp(0), ramp(90)], tmp_path / "a.gif")
    with Image.open(tmp_path / "a.gif") as animation:
        assert (animation.info["duration"], animation.info["loop"]) == (STEP, 0)
        animation.seek(1)
        assert animation.info["duration"] == END


@pytest.mark.parametrize("sizes", [[], [(4, 4), (5, 4)]])
def test_frames_of_different_sizes_or_none_are_refused(tmp_path, sizes):
    with pytest.raises(ValueError, match="frames of one size"):
        save_animation([Image.new("RGB", size) for size in sizes], tmp_path / "a.gif")
