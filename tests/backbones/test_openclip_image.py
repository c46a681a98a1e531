"""Image towers of open_clip and timm against modules made like their own, where neither need be installed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from m2ib_lightning.backbones.openclip_image import (
    ConvNextImageTower,
    ResNetImageTower,
    TimmImageTower,
    ViTImageTower,
    image_tower,
    residual_blocks,
)
from tests.backbones.openclip_made import Scale, Transformer, assert_whole, batch_of, randomly

PIXELS = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
BATCH = batch_of([[1, 5, 9], [1, 6, 9]], PIXELS)
CPU = torch.device("cpu")


class VisionTransformer(nn.Module):
    """open_clip's: pooled by CLS, by the mean of the patches, or by attention to all tokens."""

    def __init__(self, pool_type="tok", attends=False):
        super().__init__()
        self.patch_size, self.grid_size, self.pool_type = (4, 4), (2, 3), pool_type
        self.conv, self.cls = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(8))
        self.transformer, self.ln_post = Transformer(8), nn.LayerNorm(8)
        self.attn_pool = nn.Linear(8, 8) if attends else None
        self.proj = nn.Parameter(torch.randn(8, 5))

    def _embeds(self, pixels):
        return torch.cat([self.cls.expand(len(pixels), 1, 8), self.conv(pixels).flatten(2).transpose(1, 2)], 1)

    def _pool(self, x):
        if self.attn_pool is not None:
            return self.ln_post(self.attn_pool(x).tanh().mean(1)), x
        return self.ln_post(x[:, 1:].mean(1)), x

    def forward(self, pixels):
        x = self.transformer(self._embeds(pixels))
        pooled = self._pool(x)[0] if self.attn_pool is not None or self.pool_type != "tok" else self.ln_post(x[:, 0])
        return pooled @ self.proj


@pytest.mark.parametrize(
    ("pool", "attends", "reads"),
    [
        ("tok", False, "CLS"),
        ("tok", True, "attention over all patches"),
        ("avg", True, "attention over all patches"),
        ("avg", False, "mean of patches"),
    ],
)
def test_a_vision_transformer_is_pooled_as_open_clip_does(pool, attends, reads):
    visual = randomly(VisionTransformer(pool, attends))
    tower = image_tower(visual, "made", (8, 12), CPU)
    assert type(tower) is ViTImageTower and tower.reads == reads
    assert_whole(tower, BATCH, visual(PIXELS))
    assert (tower.patch, tower.length, tower.width, tower.depth, tower.prefix_tokens) == (4, 7, 8, 3, 1)
    hidden = tower.embeddings(BATCH)
    assert hidden.special.tolist() == [[True] + [False] * 6] * 2 and tower.grid(BATCH) == (2, 3)
    assert (hidden.read is not None) == (reads == "CLS")


class ModifiedResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.layer1, self.layer2, self.layer3 = (nn.Conv2d(4, 4, 1) for _ in range(3))
        self.layer4 = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), *(nn.Conv2d(6, 6, 3, 1, 1) for _ in range(3)))
        self.attnpool = nn.Sequential(nn.Flatten(), nn.Linear(6 * 2 * 3, 5))

    def forward(self, pixels):
        for part in (self.stem, self.layer1, self.layer2, self.layer3, self.layer4, self.attnpool):
            pixels = part(pixels)
        return pixels


class ConvNeXt(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 2, 2)
        last = nn.Module()
        last.downsample = nn.Conv2d(4, 6, 2, 2)
        last.blocks = nn.Sequential(*(nn.Conv2d(6, 6, 3, 1, 1) for _ in range(4)))
        self.stages = nn.ModuleList([nn.Conv2d(4, 4, 1), last])
        self.norm_pre = nn.BatchNorm2d(6)

    def forward_head(self, maps):
        return maps.mean((2, 3))


def test_convolutions_are_cut_behind_the_first_block_of_the_last_stage():
    visual = randomly(ModifiedResNet())
    tower = image_tower(visual, "made", (8, 12), CPU)
    assert type(tower) is ResNetImageTower and tower.reads == "attention over all cells"
    assert_whole(tower, BATCH, visual(PIXELS))
    assert (tower.depth, tower.width, tower.length, tower.grid(BATCH)) == (3, 6, 6, (2, 3))
    trunk = ConvNeXt()
    visual = SimpleNamespace(trunk=randomly(trunk), head=randomly(nn.Linear(6, 5)))
    tower = image_tower(visual, "made", (8, 12), CPU)
    assert type(tower) is ConvNextImageTower and tower.reads == "mean of all cells"
    last = trunk.stages[1]
    maps = last.blocks(last.downsample(trunk.stages[0](trunk.stem(PIXELS))))
    assert_whole(tower, BATCH, visual.head(trunk.norm_pre(maps).mean((2, 3))))
    assert (tower.depth, tower.width, tower.length, tower.grid(BATCH)) == (3, 6, 6, (2, 3))
    hidden = tower.prefix(BATCH, 0)
    assert hidden.read is None and hidden.valid.all() and not hidden.special.any()


class Attention(nn.Module):
    """timm's, with an angle by which queries may be turned."""

    def __init__(self, width, gate=None):
        super().__init__()
        self.qkv, self.proj, self.num_heads, self.scale = nn.Linear(width, 3 * width), nn.Linear(width, width), 2, 0.7
        self.q_norm, self.k_norm, self.norm, self.gate = nn.Identity(), nn.Identity(), nn.Identity(), gate

    def forward(self, x, rope=None):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, -1).permute(2, 0, 3, 1, 4)
        q = self.q_norm(q) if rope is None else q + rope
        mixed = ((q @ self.k_norm(k).transpose(-1, -2)) * self.scale).softmax(-1) @ v
        mixed = self.norm(mixed.transpose(1, 2).flatten(2))
        return self.proj(mixed if self.gate is None else mixed * self.gate)


class Block(nn.Module):
    def __init__(self, width, gate=None):
        super().__init__()
        self.norm1, self.norm2, self.ls1, self.ls2 = (
            nn.LayerNorm(width),
            nn.LayerNorm(width),
            Scale(width),
            Scale(width),
        )
        self.attn, self.seen = Attention(width, gate), []
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x, rope=None):
        self.seen.append(x.shape[1])
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class OtherBlock(Block):
    pass


def timm_model(kind="VisionTransformer", block=Block, pool="token", attends=False, rope=None, mixed=False, gate=None):
    """A visual of open_clip around a plain transformer of timm with CLS and a register."""

    class Trunk(nn.Module):
        num_prefix_tokens, embed_dim, global_pool, rope_mixed = 2, 8, pool, mixed

        def __init__(self):
            super().__init__()
            self.patch_embed = nn.Module()
            self.patch_embed.proj, self.patch_embed.grid_size = nn.Conv2d(3, 8, 4, 4), (2, 3)
            self.patch_embed.forward = lambda x: self.patch_embed.proj(x).flatten(2).transpose(1, 2)
            self.first = nn.Parameter(torch.randn(2, 8))
            self.blocks = nn.ModuleList(block(8, gate) for _ in range(3))
            self.norm_pre, self.norm = nn.LayerNorm(8), nn.LayerNorm(8)
            self.attn_pool = nn.Linear(8, 8) if attends else None
            if rope is not None:
                self.rope = SimpleNamespace(get_embed=lambda: rope)

        def _pos_embed(self, x):
            placed = torch.cat([self.first.expand(len(x), 2, 8), x], 1)
            return placed if rope is None else (placed, rope)

        def forward_head(self, x):
            if self.attn_pool is not None:
                return self.attn_pool(x).tanh().mean(1)
            return x[:, 0] if pool == "token" else x[:, 2:].mean(1)

        def forward(self, pixels):
            x = self.norm_pre(torch.cat([self.first.expand(len(pixels), 2, 8), self.patch_embed.forward(pixels)], 1))
            for index, one in enumerate(self.blocks):
                x = one(x) if rope is None else one(x, rope[index] if mixed else rope)
            return self.forward_head(self.norm(x))

    trunk = randomly(type(kind, (Trunk,), {})())
    return SimpleNamespace(trunk=trunk, head=randomly(nn.Linear(8, 5)))


@pytest.mark.parametrize("kind", ["VisionTransformer", "Eva"])
@pytest.mark.parametrize(
    ("arguments", "reads", "last"),
    [
        ({}, "CLS", 0),
        ({"block": OtherBlock}, "CLS", 8),
        ({"gate": 0.5}, "CLS", 8),
        ({"pool": "avg"}, "mean of patches", 8),
        ({"attends": True}, "attention over all patches", 8),
        ({"rope": torch.tensor(0.5), "block": OtherBlock}, "CLS", 8),
        ({"rope": torch.tensor([0.5, -1.0, 2.0]), "mixed": True, "block": OtherBlock}, "CLS", 8),
    ],
)
def test_a_plain_transformer_of_timm_is_run_as_its_own_and_cls_alone_where_that_is_plain(kind, arguments, reads, last):
    visual = timm_model(kind, **arguments)
    tower = image_tower(visual, "made", (8, 12), CPU)
    assert type(tower) is TimmImageTower and tower.reads == reads
    assert_whole(tower, BATCH, visual.head(visual.trunk(PIXELS)))
    assert (tower.length, tower.width, tower.depth, tower.prefix_tokens, tower.grid(BATCH)) == (8, 8, 3, 2, (2, 3))
    hidden = tower.embeddings(BATCH)
    assert hidden.special.tolist() == [[True] * 2 + [False] * 6] * 2 and (hidden.read is None) == (reads != "CLS")
    seen = visual.trunk.blocks[-1].seen
    seen.clear()
    tower.suffix(hidden.states[None], hidden, "embeddings")
    assert seen == [last] * (last > 0)  # timm's own block, which computes all tokens, is not run for CLS alone


@pytest.mark.parametrize("name", ["q_norm", "k_norm", "norm"])
def test_a_block_with_a_norm_between_its_projections_is_not_plain(name):
    visual = timm_model()
    for block in visual.trunk.blocks:
        setattr(block.attn, name, nn.LayerNorm(8 if name == "norm" else 4))
    tower = TimmImageTower(visual)
    assert not tower.plain and TimmImageTower(timm_model()).plain
    assert_whole(tower, BATCH, visual.head(visual.trunk(PIXELS)))


def test_image_models_of_other_kinds_are_refused_by_their_class():
    class Swin(nn.Module):
        pass

    other = timm_model()
    del other.trunk.patch_embed.proj
    for visual, kind in ((Swin(), "Swin"), (SimpleNamespace(trunk=Swin()), "Swin"), (other, "VisionTransformer")):
        with pytest.raises(ValueError, match=rf"but 'made' has a {kind}\. Remedy: implement"):
            image_tower(visual, "made", (8, 12), CPU)


def test_blocks_of_another_class_are_refused_by_their_classes():
    transformer = Transformer(8)
    assert len(residual_blocks(transformer)) == 3
    transformer.resblocks.append(nn.Identity())
    with pytest.raises(ValueError, match=r"ResidualAttentionBlock but got Identity, ResidualAttentionBlock\. Remedy"):
        residual_blocks(transformer)
