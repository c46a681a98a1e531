import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPTokenizer

from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.backbones.processing import read_images, read_texts, warn_of_cuts


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(EMBEDDED)


def halves(size: tuple[int, int]) -> Image.Image:
    """A picture whose left half is black and whose right half is white."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, size[0] // 2 :] = 255
    return Image.fromarray(pixels)


PLAIN = {"do_normalize": False, "do_rescale": True}


def test_a_picture_is_read_as_the_processor_does_and_what_is_seen_of_it_is_said():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, **PLAIN)
    pixels, views = read_images(processor, [halves((16, 8)), halves((8, 8)).convert("L")])
    assert pixels.shape == (2, 3, 8, 8) and views == ((0.25, 0, 0.75, 1), (0, 0, 1, 1))
    assert pixels[0, :, :, :4].max() == 0 and pixels[0, :, :, 4:].min() == 1


def test_a_size_that_is_asked_for_is_cut_from_the_middle_where_the_processor_crops():
    processor = CLIPImageProcessorPil(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8}, **PLAIN)
    pixels, views = read_images(processor, [halves((40, 20))], (6, 4))
    # Of 40 x 20 pixels the middle 13 x 20.
    assert pixels.shape == (1, 3, 6, 4) and views == ((13 / 40, 0, 26 / 40, 1),)


@pytest.mark.parametrize("processor", [{"do_center_crop": False}, {"do_center_crop": None}])
def test_a_size_that_is_asked_for_takes_the_whole_picture_where_the_processor_does_not_crop(processor):
    made = CLIPImageProcessorPil(size={"height": 8, "width": 8}, **PLAIN, **processor)
    pixels, views = read_images(made, [halves((40, 20))], (6, 4))
    assert pixels.shape == (1, 3, 6, 4) and views == ((0.0, 0.0, 1.0, 1.0),)
    assert pixels[0, :, :, 0].max() < 0.2 and pixels[0, :, :, -1].min() > 0.8


def test_a_processor_that_knows_nothing_of_crops_makes_none():
    asked = []

    def processor(images, **arguments):
        asked.append((images[0].size, arguments))
        return {"pixel_values": torch.zeros(1, 3, 6, 4)}

    _, views = read_images(processor, [halves((40, 20))], (6, 4))
    assert views == ((0.0, 0.0, 1.0, 1.0),) and asked == [
        ((40, 20), {"return_tensors": "pt", "do_resize": True, "size": {"height": 6, "width": 4},
                    "do_center_crop": False})
    ]  # fmt: skip


def test_texts_are_padded_on_the_right_to_the_longest_and_padding_is_no_token(tokenizer):
    read = read_texts(tokenizer, ["a cat", "a cat and a dog"], 16, "made")
    assert read.input_ids.shape == (2, 7) and read.attention_mask.sum(1).tolist() == [4, 7]
    assert read.attention_mask[0].tolist() == [True] * 4 + [False] * 3
    assert [len(tokens) for tokens in read.tokens] == [len(spans) for spans in read.spans] == [4, 7]
    assert read.tokens[0] == ("<|startoftext|>", "a", "cat", "<|endoftext|>")
    assert read.spans[0] == ((0, 0), (0, 1), (2, 5), (0, 0)) and read.truncated == (False, False)


def test_where_padding_is_read_texts_are_as_long_as_the_limit_and_all_of_it_counts(tokenizer):
    read = read_texts(tokenizer, ["a cat", "a cat and a dog"], 9, "made", reads_padding=True)
    assert read.input_ids.shape == (2, 9) and read.attention_mask.all()
    assert [len(tokens) for tokens in read.tokens] == [9, 9] and read.spans[0][4:] == ((0, 0),) * 5


def test_a_text_of_the_limit_is_whole_and_of_one_token_more_is_cut_and_said_to_be(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_texts(tokenizer, ["a cat and a dog"], 7, "made").truncated == (False,)
    with pytest.warns(UserWarning) as told:
        read = read_texts(tokenizer, ["a cat", "a cat and a dog"], 6, "made")
    assert read.truncated == (False, True) and read.tokens[1][-1] == "<|endoftext|>" and len(read.tokens[1]) == 6
    assert [str(warning.message) for warning in told] == [
        "The text 'a cat and a dog'... has more than the 6 tokens that 'made' reads; the rest is cut off and marked so "
        "in the result. Shorten it to explain all of it."
    ]
    assert told[0].filename == __file__


def test_of_several_texts_that_are_cut_each_is_named_by_its_first_forty_characters():
    texts = ["x" * 41, "short", "y" * 40]
    with pytest.warns(UserWarning) as told:
        warn_of_cuts(texts, [True, False, True], 5, "made")
    shown = [str(warning.message).split("...")[0] for warning in told]
    assert shown == [f"The text '{'x' * 40}'", f"The text '{'y' * 40}'"]


def test_a_tokenizer_without_offsets_has_its_tokens_found_and_unknown_ones_are_no_special_ones():
    vocabulary = ["</s>", "<unk>", "▁a", "▁cat"]

    class Slow(SimpleNamespace):
        def __call__(self, texts, **arguments):
            known = {"a cat": [2, 3, 0], "a": [2, 0], "a ☃": [2, 1, 0]}
            if isinstance(texts, str):
                return {"input_ids": known[texts]}
            assert arguments["truncation"] and arguments["return_attention_mask"]
            assert arguments["padding"] is True and arguments["padding_side"] == "right"
            rows = [known[text][: arguments["max_length"]] for text in texts]
            longest = max(map(len, rows))
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
            return {
                "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
                "attention_mask": mask,
            }

        def convert_ids_to_tokens(self, ids):
            return [vocabulary[i] for i in ids]

    slow = Slow(is_fast=False, all_special_ids=[0, 1], unk_token_id=1)
    read = read_texts(slow, ["a", "a cat", "a ☃"], 3, "made")
    assert read.truncated == (False, False, False)
    assert read.spans == (((0, 1), (0, 0)), ((0, 1), (2, 5), (0, 0)), ((0, 1), (1, 1), (0, 0)))
    assert read.tokens[0] == ("a", "</s>") and read.attention_mask.sum(1).tolist() == [2, 3, 3]
    with pytest.warns(UserWarning, match="more than the 2 tokens"):
        assert read_texts(slow, ["a", "a cat"], 2, "made").truncated == (False, True)
