"""The CLIP inside Hugging Face CLIPSeg (`CLIPSegModel`, `CLIPSegForImageSegmentation`); its decoder is not read."""

from m2ib_lightning.backbones.clip import CLIPBackbone


class CLIPSegBackbone(CLIPBackbone):
    """A `CLIPSegModel` with its processor, which gives 352 pixels to a model of 224 and interpolates its positions."""
