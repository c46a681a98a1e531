"""Methods that read attention, on families other than CLIP: maps or one line that says why not."""

import pytest
import torch

from m2ib_lightning.backbones import load_backbone
from m2ib_lightning.data import make_scene
from m2ib_lightning.methods import AttentionRollout, Chefer, GradCAM, GradECLIP, LeGrad
from tests.checkpoints import CHECKPOINTS


@pytest.fixture(scope="module", params=["siglip", "chinese_clip", "altclip"])
def family(request, tmp_path_factory):
    backbone = load_backbone(str(CHECKPOINTS[request.param](tmp_path_factory.mktemp(request.param))))
    made = [make_scene(i, named=1 + i) for i in range(2)]
    return request.param, backbone, backbone.preprocess([s.image for s in made], [s.text for s in made])


@pytest.mark.parametrize("method", [Chefer, AttentionRollout, GradECLIP, LeGrad])
@pytest.mark.parametrize("modality", ["image", "text"])
def test_other_families_have_maps_or_are_refused_in_one_line(family, method, modality):
    name, backbone, batch = family
    explain = method(backbone, modalities=[modality])
    if name == "siglip" and modality == "image" and method is not LeGrad:
        with pytest.raises(ValueError, match=r"^Expected the image tower.s head to read one token.*Remedy") as error:
            explain.attribute(batch)
        assert "\n" not in str(error.value)
        return
    for a in explain.attribute(batch):
        values = torch.from_numpy(getattr(a, f"{modality}_map"))
        assert values.isfinite().all()
        # GradECLIP keeps what speaks for the pair only; of random weights that may be nothing.
        assert values.max() > values.min() or (method is GradECLIP and values.abs().max() == 0)


def test_pictures_of_several_shapes_are_refused_in_one_line(tmp_path):
    backbone = load_backbone(str(CHECKPOINTS["siglip2"](tmp_path)))
    image = make_scene(0).image
    batch = backbone.preprocess([image, image.resize((200, 60))], ["a cat", "a dog"])
    with pytest.raises(ValueError, match=r"^Expected pictures of one shape in a batch.*Remedy: batch_size=1[^\n]*$"):
        GradCAM(backbone).attribute(batch)
