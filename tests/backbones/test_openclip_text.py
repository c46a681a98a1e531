"""Text towers of open_clip against modules made like its own, where the library need not be installed."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from m2ib_lightning.backbones.openclip_text import CocaTextTower, OpenClipBertTower, OpenClipTextTower, text_tower
from tests.backbones.openclip_made import Transformer, assert_whole, batch_of, randomly

# 1 is BOS, 9 is EOS and the largest id, 0 is padding.
IDS = [[1, 5, 6, 9, 0, 0], [1, 7, 9, 0, 0, 0], [1, 4, 5, 6, 7, 9]]


class TextTransformer(nn.Module):
    """As open_clip runs it, on ids that are padded to the full length."""

    def __init__(self, pool="argmax", causal=True, projection="matrix", length=6, cls=False):
        super().__init__()
        self.pool_type, self.context_length, self.eos_id, self.pad_id = pool, length, 9, 0
        self.token_embedding = nn.Embedding(10, 8)
        self.positional_embedding = nn.Parameter(torch.randn(length + cls, 8))
        self.transformer, self.ln_final = Transformer(8), nn.LayerNorm(8)
        made = {"matrix": nn.Parameter(torch.randn(8, 5)), "linear": nn.Linear(8, 5), "none": None}
        self.text_projection = made[projection]
        self.cls_emb = nn.Parameter(torch.randn(8)) if cls else None
        self.attn_mask = torch.full([length + cls] * 2, -torch.inf).triu(1) if causal else None
        self.correct_cls_mask = False

    def forward(self, ids):
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]], self.attn_mask)
        places = {"argmax": ids.argmax(1), "eos": (ids == 9).int().argmax(1), "first": 0, "last": -1}
        return self.project(self.ln_final(x[torch.arange(len(ids)), places[self.pool_type]]))

    def project(self, x):
        if isinstance(self.text_projection, nn.Linear):
            return self.text_projection(x)
        return x if self.text_projection is None else x @ self.text_projection


@pytest.mark.parametrize("projection", ["matrix", "linear", "none"])
@pytest.mark.parametrize("pool", ["argmax", "eos", "first", "last"])
@pytest.mark.parametrize("causal", [True, False])
def test_every_way_of_pooling_is_the_librarys(pool, causal, projection):
    text = randomly(TextTransformer(pool, causal, projection))
    tower = OpenClipTextTower(text)
    assert_whole(tower, batch_of(IDS), text(torch.tensor(IDS)))
    reads = {"argmax": "EOS", "eos": "EOS", "first": "first token", "last": "last token"}[pool]
    assert tower.reads == reads and tower.reads_padding == (not causal or reads != "EOS")
    assert (tower.depth, tower.width, tower.length, tower.limit) == (3, 8, 6, 6)
    hidden = tower.embeddings(batch_of(IDS))
    read = {"EOS": [3, 2, 5], "first token": [0] * 3, "last token": [5] * 3}[reads]
    assert hidden.read.tolist() == read and torch.equal(hidden.valid, torch.tensor(IDS) != 0)
    assert hidden.special[:2].tolist() == [[True, False, False, False, True, True], [True, False, False] + [True] * 3]


def test_eos_is_the_first_of_its_id_and_the_largest_id_where_the_model_says_so():
    ids = [[1, 9, 5, 9, 0, 0]]
    for pool, other in (("eos", 1), ("argmax", 1)):
        assert OpenClipTextTower(TextTransformer(pool)).embeddings(batch_of(ids)).read.tolist() == [other]
    text = TextTransformer("eos")
    text.eos_id = 5
    assert OpenClipTextTower(text).embeddings(batch_of(ids)).read.tolist() == [2]
    text.text_eos_id, text.text_pool_type = 9, "argmax"  # as a `CLIP` calls them
    assert OpenClipTextTower(text).eos == 9 and OpenClipTextTower(text).pool == "argmax"


def test_a_causal_text_runs_at_the_length_of_the_longest():
    text = randomly(TextTransformer())
    short = [row[:4] for row in IDS[:2]]
    assert_whole(OpenClipTextTower(text), batch_of(short), text(torch.tensor(IDS))[:2])


@pytest.mark.parametrize(("pool", "pads"), [("none", False), ("argmax", True)])
def test_a_text_whose_head_reads_otherwise_is_refused(pool, pads):
    text = TextTransformer()
    text.pool_type, text.use_pad_mask = pool, pads
    with pytest.raises(ValueError, match=rf"reads one token but TextTransformer pools by '{pool}'.*backbones/base\.py"):
        OpenClipTextTower(text)


def coca_features(text, ids):
    """CLS behind the text of full length: it sees the text and the first token of padding, and not itself."""
    ids = nn.functional.pad(ids, (0, 6 - ids.shape[1]))
    x = torch.cat([text.token_embedding(ids), text.cls_emb.expand(len(ids), 1, 8)], 1) + text.positional_embedding
    found = []
    for row, own in zip(x, ids, strict=True):
        mask = text.attn_mask.clone()
        mask[6] = torch.where(torch.cat([torch.tensor([True]), own != 0]), 0.0, -torch.inf)
        found.append(text.transformer(row[None], mask)[0, 6])
    return text.project(text.ln_final(torch.stack(found)))


def test_coca_reads_a_cls_behind_the_text_that_sees_one_token_of_padding():
    text = randomly(TextTransformer(cls=True))
    tower = text_tower(SimpleNamespace(text=text))
    assert type(tower) is CocaTextTower and (tower.reads, tower.reads_padding, tower.causal) == ("CLS", False, False)
    assert (tower.length, tower.limit, tower.full) == (7, 5, 6)
    ids = [[1, 5, 6, 9, 0], [1, 7, 9, 0, 0], [1, 4, 5, 6, 9]]
    for longest in (5, 4):
        some = [row[:longest] for row in ids[: 3 if longest == 5 else 2]]
        assert_whole(tower, batch_of(some), coca_features(text, torch.tensor(some)))
    hidden = tower.embeddings(batch_of(ids))
    assert hidden.read.tolist() == [6] * 3 and hidden.states.shape == (3, 7, 8)
    assert hidden.valid.int().tolist() == [[1, 1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 1, 1, 1, 1]]
    assert hidden.special.int().tolist() == [[1, 0, 0, 0, 1, 1, 1], [1, 0, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1, 1]]


def test_coca_with_another_mask_than_the_released_one_is_refused():
    text = TextTransformer(cls=True)
    text.correct_cls_mask = True
    with pytest.raises(ValueError, match=r"released mask but got `correct_cls_mask`\. Remedy"):
        CocaTextTower(text)


class MeanPooler:
    pass


class ClsPooler:
    pass


class ClsLastHiddenStatePooler:
    pass


class HFTextEncoder(nn.Module):
    def __init__(self, pooler, pooling=True):
        super().__init__()
        sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=10, max_position_embeddings=6, **sizes)
        self.transformer, self.proj = BertModel(config, add_pooling_layer=pooling), nn.Linear(8, 5, bias=False)
        self.pooler = pooler()

    def forward(self, ids):
        mask = ids != 0
        out = self.transformer(input_ids=ids, attention_mask=mask.long())
        states, kind = out.last_hidden_state, type(self.pooler)
        if kind is MeanPooler:
            return self.proj((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))
        return self.proj(out.pooler_output if kind is ClsPooler and self.transformer.pooler else states[:, 0])


@pytest.mark.parametrize(
    ("pooler", "pooling"), [(MeanPooler, True), (ClsPooler, True), (ClsPooler, False), (ClsLastHiddenStatePooler, True)]
)
def test_a_bert_is_pooled_as_open_clip_does(pooler, pooling):
    text = randomly(HFTextEncoder(pooler, pooling))
    tower = text_tower(SimpleNamespace(text=text))
    assert type(tower) is OpenClipBertTower and (tower.limit, tower.length) == (6, 6)
    assert_whole(tower, batch_of(IDS), text(torch.tensor(IDS)))
    read = tower.embeddings(batch_of(IDS)).read
    mean = pooler is MeanPooler
    assert tower.reads == ("mean of all tokens" if mean else "CLS") and (read is None) == mean


def test_text_models_of_other_kinds_are_refused_by_their_class_and_pooler():
    class Other:
        pass

    def refused(text):
        with pytest.raises(ValueError, match=r"Expected a text tower like BERT.*backbones/base\.py") as error:
            OpenClipBertTower(text)
        return str(error.value)

    text = HFTextEncoder(Other)
    assert "a BertModel with a Other" in refused(text)
    text.pooler, text.transformer.encoder.layer = ClsPooler(), nn.ModuleList([nn.Linear(1, 1)])
    assert "a BertModel with a ClsPooler" in refused(text)
    text.transformer = nn.Linear(1, 1)
    assert "a Linear with a ClsPooler" in refused(text)


def test_a_model_may_be_its_own_text_transformer():
    assert type(text_tower(TextTransformer())) is OpenClipTextTower
