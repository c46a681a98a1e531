"""Pictures, texts and names as open_clip reads them, with a model, tokenizers and a library made like its own."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from m2ib_lightning.backbones.openclip import OpenClipBackbone, load_openclip
from m2ib_lightning.errors import MissingExtra
from tests.backbones.openclip_made import randomly
from tests.backbones.test_openclip_image import VisionTransformer
from tests.backbones.test_openclip_text import TextTransformer

ENTRIES = {0: "!</w>", 1: "<start>", 4: "a</w>", 5: "cat</w>", 6: "um", 7: "brella</w>", 9: "<end>"}


class Words:
    """A tokenizer like open_clip's own: BOS is 1, EOS 9, padding 0, which is also the entry "!"."""

    sot_token_id, context_length, all_special_ids = 1, 6, (1, 9)
    decoder = ENTRIES

    def encode(self, text):
        known = {"a": [4], "cat": [5], "umbrella": [6, 7], "!": [0]}
        return [i for word in text.lower().replace("!", " !").split() for i in known[word]]

    def decode(self, ids):
        return "".join(self.decoder[i] for i in ids).replace("</w>", " ")

    def __call__(self, texts, context_length):
        rows = [[1, *self.encode(text), 9] for text in texts]
        rows = [row if len(row) <= context_length else [*row[: context_length - 1], 9] for row in rows]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


class Pieces:
    """A wrapper of open_clip around a tokenizer of Hugging Face, which cleans texts and knows two words."""

    context_length = None

    def __init__(self):
        entries = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "cat", "um", "##brella"]
        known = {"cat": [4], "umbrella": [5, 6]}

        def inner(text):
            return {"input_ids": [1, *(i for word in text.split() for i in known.get(word, [3])), 2]}

        class Inner(SimpleNamespace):
            def __call__(self, text):
                return inner(text)

        self.tokenizer = Inner(
            all_special_ids=[0, 1, 2, 3], unk_token_id=3, decode=lambda ids: " ".join(entries[i] for i in ids),
            convert_ids_to_tokens=entries.__getitem__,
        )  # fmt: skip
        self.clean_fn = str.lower

    def __call__(self, texts, context_length):
        rows = [self.tokenizer(self.clean_fn(text))["input_ids"][:context_length] for text in texts]
        return torch.tensor([row + [0] * (context_length - len(row)) for row in rows])


class Model(nn.Module):
    def __init__(self, size=(8, 12), mode="squash", pool="argmax", causal=True):
        super().__init__()
        self.visual, self.text = VisionTransformer(), TextTransformer(pool, causal)
        self.visual.preprocess_cfg = {"size": size, "resize_mode": mode}


def made(tokenizer=None, **arguments):
    transform = lambda image: torch.full((3, 8, 12), image.size[0] / image.size[1])  # noqa: E731
    return OpenClipBackbone(randomly(Model(**arguments)), transform, tokenizer or Words(), "made")


def test_sizes_limits_and_special_tokens_are_the_models_or_the_tokenizers():
    assert (
        made().image_size == (8, 12) and made(size=8).image_size == (8, 8) and made(size=[8, 12]).image_size == (8, 12)
    )
    backbone = made()
    assert (backbone.limit, backbone.text.prefix_tokens) == (6, 1)
    shorter, without = Words(), Words()
    shorter.context_length, without.context_length = 5, 0
    assert (made(shorter).limit, made(without).limit) == (5, 6)
    assert (made(Pieces()).limit, made(Pieces()).text.prefix_tokens) == (6, 0)


def test_pairs_are_read_as_the_library_reads_them_and_named_by_their_places():
    backbone = made()
    batch = backbone.preprocess([Image.new("L", (30, 10)), Image.new("RGB", (10, 10))], ["a cat", "An umbrella"[3:]])
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [3, 1] and batch.pixel_values.shape == (2, 3, 8, 12)
    assert batch.views == ((0.0, 0.0, 1.0, 1.0),) * 2 and [pair.id for pair in batch.pairs] == ["0", "1"]
    with pytest.raises(ValueError, match="caption for pair 1"):
        backbone.preprocess([Image.new("L", (3, 1))] * 2, ["a", " "])


@pytest.mark.parametrize(("mode", "ratio"), [("shortest", 8), ("longest", 10), ("squash", 10)])
def test_a_very_long_picture_is_trimmed_where_the_rest_would_be_cropped_away(mode, ratio):
    batch = made(mode=mode).preprocess([Image.new("RGB", (200, 20))], ["a"])
    assert (batch.pixel_values == ratio).all()


def test_tokens_stand_where_they_are_in_their_texts_and_are_shown_without_marks():
    read = made()._read_texts(["a cat", "An Umbrella!"[3:]])
    assert read.input_ids.tolist() == [[1, 4, 5, 9, 0], [1, 6, 7, 0, 9]]
    assert read.attention_mask.tolist() == [[True] * 4 + [False], [True] * 5]
    assert read.tokens == (("<start>", "a", "cat", "<end>"), ("<start>", "um", "brella", "!", "<end>"))
    assert read.spans == (((0, 0), (0, 1), (2, 5), (0, 0)), ((0, 0), (0, 2), (2, 8), (8, 9), (0, 0)))
    assert read.truncated == (False, False)


def test_where_padding_is_read_it_has_no_characters_though_its_id_is_a_word():
    read = made(pool="last", causal=False)._read_texts(["a cat!", "a"])
    assert read.input_ids.shape == (2, 6) and read.attention_mask.all()
    assert read.spans[0] == ((0, 0), (0, 1), (2, 5), (5, 6), (0, 0), (0, 0))
    assert read.spans[1] == ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0), (0, 0)) and len(read.tokens[1]) == 6


def test_a_text_that_just_fits_is_whole_and_a_longer_one_is_cut_with_a_warning():
    backbone = made()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backbone._read_texts(["a cat a cat"]).truncated == (False,)
    with pytest.warns(UserWarning, match="'a cat a cat a'... has more than the 6 tokens that 'made' reads"):
        read = backbone._read_texts(["a", "a cat a cat a"])
    assert read.truncated == (False, True) and read.attention_mask.sum(1).tolist() == [3, 6]
    assert read.tokens[1] == ("<start>", "a", "cat", "a", "cat", "<end>") and read.spans[1][-1] == (0, 0)


def test_a_tokenizer_of_hugging_face_is_asked_through_its_wrapper_and_unknown_words_are_no_special_tokens():
    read = made(Pieces())._read_texts(["Cat", "a UMBRELLA"])
    assert read.input_ids.tolist() == [[1, 4, 2, 0, 0], [1, 3, 5, 6, 2]]
    assert read.attention_mask.sum(1).tolist() == [3, 5] and read.truncated == (False, False)
    assert read.tokens == (("[CLS]", "cat", "[SEP]"), ("[CLS]", "[UNK]", "um", "brella", "[SEP]"))
    assert read.spans == (((0, 0), (0, 3), (0, 0)), ((0, 0), (0, 0), (2, 4), (4, 10), (0, 0)))
    with pytest.warns(UserWarning, match="more than the 6 tokens"):
        assert made(Pieces())._read_texts(["cat cat", "cat cat cat cat cat"]).truncated == (False, True)


@pytest.mark.parametrize(
    ("mode", "picture", "view"),
    [
        ("shortest", (40, 40), (0, 0.25, 1, 0.75)),  # made 20 x 20, of which 20 x 10 are kept
        ("shortest", (80, 20), (0.25, 0, 0.75, 1)),  # 40 x 10
        ("longest", (40, 40), (-0.5, 0, 1.5, 1)),  # 10 x 10, padded to 20 x 10
        ("longest", (80, 20), (0, -0.5, 1, 1.5)),  # 20 x 5
        ("squash", (80, 20), (0, 0, 1, 1)),
    ],
)
def test_what_is_seen_of_pictures_by_a_model_of_ten_by_twenty_pixels(mode, picture, view):
    own = SimpleNamespace(settings=SimpleNamespace(resize_mode=mode), image_size=(10, 20))
    assert OpenClipBackbone._view(own, *picture) == pytest.approx(view)


@pytest.fixture
def library(monkeypatch):
    """What a stand-in for open_clip was asked for; it gives what `answer` holds or raises it."""
    asked = SimpleNamespace(calls=[], answer=None)

    def create(architecture, pretrained, force_image_size):
        asked.calls.append((architecture, pretrained, force_image_size))
        if isinstance(asked.answer, Exception):
            raise asked.answer
        return randomly(Model()), str

    module = SimpleNamespace(create_model_from_pretrained=create, get_tokenizer=lambda name: Words())
    monkeypatch.setitem(sys.modules, "open_clip", module)
    return asked


@pytest.mark.parametrize(
    ("name", "size", "call"),
    [
        ("open_clip:ViT-B-32/openai", None, ("ViT-B-32", "openai", None)),
        ("open_clip:ViT-B-32//path/to/weights.pt", (64, 32), ("ViT-B-32", "/path/to/weights.pt", (64, 32))),
        ("open_clip:ViT-B-32", None, ("ViT-B-32", None, None)),
        ("open_clip:hf-hub:laion/model", None, ("hf-hub:laion/model", None, None)),
        ("open_clip:local-dir:/a/b:c", None, ("local-dir:/a/b:c", None, None)),
        ("open_clip:ViT-B-32/folder:x", None, ("ViT-B-32", "folder:x", None)),
    ],
)
def test_names_are_taken_apart_as_the_library_wants_them(name, size, call, library):
    backbone = load_openclip(name, size)
    assert library.calls == [call] and backbone.name == name and type(backbone.tokenizer) is Words


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError("\nno such model\nand more"), "no such model"), (AssertionError(), "AssertionError"),
     (OSError(" "), "OSError")],
)  # fmt: skip
def test_a_model_that_cannot_be_read_is_named_with_the_first_line_of_why(error, reason, library):
    library.answer = error
    with pytest.raises(ValueError) as refused:
        load_openclip("open_clip:x/y")
    assert str(refused.value) == (
        f"Expected a model at 'open_clip:x/y' but open_clip could not read one ({reason}). Remedy: name one of "
        "open_clip.list_pretrained() as 'open_clip:NAME/TAG', or a local file or folder."
    )


def test_without_the_library_its_extra_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        MissingExtra, match=r"for 'open_clip:x/y' but it cannot be imported .*m2ib_lightning\[open_clip\]"
    ):
        load_openclip("open_clip:x/y")
