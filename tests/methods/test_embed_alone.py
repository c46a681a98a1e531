import pytest
import torch
from PIL import Image

from m2ib_lightning.methods.embed_alone import embed_alone


class Recording:
    """Embeds a batch as the number of its first item."""

    image_size = (4, 6)

    def __init__(self):
        self.seen = []

    def preprocess(self, pictures, texts):
        self.seen.append((pictures, texts))
        return len(pictures), sum(len(seen) for seen, _ in self.seen[:-1])

    def embed(self, modality, batch):
        count, first = batch
        return torch.arange(first, first + count, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("count", "batches"), [(1, [1]), (32, [32]), (33, [32, 1]), (65, [32, 32, 1])])
def test_captions_are_embedded_in_order_32_at_a_time_beside_blank_pictures(count, batches):
    backbone, captions = Recording(), tuple(f"caption {i}" for i in range(count))
    found = embed_alone(backbone, "text", captions)
    assert found.dtype == torch.float32 and found[:, 0].tolist() == list(range(count))
    assert [len(texts) for _, texts in backbone.seen] == batches
    assert [text for _, texts in backbone.seen for text in texts] == list(captions)
    assert all(len(pictures) == len(texts) for pictures, texts in backbone.seen)
    assert {(picture.size, picture.getpixel((0, 0))) for pictures, _ in backbone.seen for picture in pictures} == {
        ((6, 4), (0, 0, 0))
    }


@pytest.mark.filterwarnings("ignore:Expected a picture of something")
def test_pictures_and_their_files_are_embedded_beside_a_word(tmp_path):
    Image.new("RGB", (3, 2), "red").save(tmp_path / "red.png")
    backbone = Recording()
    found = embed_alone(backbone, "image", [Image.new("RGB", (5, 7), "blue"), tmp_path / "red.png"])
    ((pictures, texts),) = backbone.seen
    assert found.shape == (2, 1) and texts == ["nothing", "nothing"]
    assert [(p.size, p.getpixel((0, 0))) for p in pictures] == [((5, 7), (0, 0, 255)), ((3, 2), (255, 0, 0))]
