from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer, Siglip2Tokenizer

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.backbones.load import EMBEDDED
from m2ib_lightning.backbones.processing import read_texts
from m2ib_lightning.backbones.tokens import match_spans, tidy_spans
from tests.backbones.tokenizers import byte_fallback, sentencepiece, wordpiece

TEXT = "A photo of  umbrellas, the 猫 near é!"

KINDS = {
    "BPE": lambda: CLIPTokenizer.from_pretrained(EMBEDDED),
    "BPE with bytes": lambda: byte_fallback(Siglip2Tokenizer),
    "WordPiece": wordpiece,
    "SentencePiece": sentencepiece,
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_cover_every_character_of_the_text_in_order(kind):
    read = read_texts(KINDS[kind](), [TEXT], 64, "a model")
    spans = [span for span in read.spans[0] if span != (0, 0)]
    assert all(not TEXT[a:b][:1].isspace() and not TEXT[a:b][-1:].isspace() for a, b in spans)
    covered = {i for a, b in spans for i in range(a, b)}
    assert covered == {i for i, character in enumerate(TEXT) if not character.isspace()}
    assert spans == sorted(spans)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_shown_without_the_marks_of_their_vocabulary(kind):
    read = read_texts(KINDS[kind](), [TEXT], 64, "a model")
    shown = [token for token, span in zip(read.tokens[0], read.spans[0], strict=True) if span != (0, 0)]
    # A token that is only a space has nothing else to be shown by.
    assert not any(mark in token for token in shown for mark in ("##", "</w>", "<0x", "Ġ"))
    assert not any("▁" in token and token != "▁" for token in shown)
    assert "photo" in shown and "near" in shown


@pytest.mark.parametrize("kind", KINDS)
def test_values_are_read_per_word_whatever_the_tokens_are(kind):
    read = read_texts(KINDS[kind](), [TEXT], 64, "a model")
    special = np.array([span == (0, 0) for span in read.spans[0]])
    values = np.ones(len(special), dtype=np.float32)
    words = Attribution("", TEXT, None, values, list(read.tokens[0]), special, list(read.spans[0]), score=0).words()
    assert [word for word, _ in words] == ["A", "photo", "of", "umbrellas", ",", "the", "猫", "near", "é", "!"] or (
        # A vocabulary without "!" reads "é!" as one unknown token.
        [word for word, _ in words][-1] == "é!" and kind == "SentencePiece"
    )
    assert sum(value for _, value in words) == (~special).sum()


def test_a_token_that_is_only_a_space_belongs_to_the_word_that_follows():
    read = read_texts(sentencepiece(), ["a 猫"], 64, "a model")
    assert read.spans[0] == ((0, 0), (0, 1), (2, 3), (2, 3), (0, 0))


def test_tokens_without_offsets_are_found_again_in_the_text():
    text = "A Cat's  umbrella, near-by"
    tokens = ["▁a", "▁cat", "s", "▁um", "bre", "lla", "▁near", "by", ""]
    assert [text[a:b] for a, b in match_spans(tokens, text)] == [
        "A", "Cat", "s", "um", "bre", "lla", "near", "by", "",
    ]  # fmt: skip


def test_a_token_that_is_nowhere_in_the_text_does_not_lead_the_others_astray():
    assert match_spans(["▁a", "<unk>", "▁cat"], "a 猫 cat") == [(0, 1), (1, 1), (4, 7)]


def test_a_tokenizer_that_knows_no_offsets_is_read_too():
    """As SigLIP's own, which needs the sentencepiece library."""
    vocabulary = ["</s>", "<unk>", "▁a", "▁cat", "s"]

    class Slow(SimpleNamespace):
        def __call__(self, texts, **arguments):
            known = {"a cat": [2, 3], "a cats": [2, 3, 4], "a cats a cats": [2, 3, 4, 2, 3, 4]}
            if isinstance(texts, str):
                return {"input_ids": [*known[texts], 0]}
            limit = arguments["max_length"]
            ids = [[*known[text][: limit - 1], 0] for text in texts]
            ids = torch.tensor([row + [0] * (limit - len(row)) for row in ids])
            return {"input_ids": ids, "attention_mask": (ids > 0).long()}

        def convert_ids_to_tokens(self, ids):
            return [vocabulary[i] for i in ids]

    slow = Slow(is_fast=False, all_special_ids=[0, 1], unk_token_id=1)
    with pytest.warns(UserWarning, match="more than the 5 tokens"):
        read = read_texts(slow, ["a cat", "a cats", "a cats a cats"], 5, "a model", reads_padding=True)
    assert read.truncated == (False, False, True) and read.attention_mask.all()
    assert read.spans[1] == ((0, 1), (2, 5), (5, 6), (0, 0), (0, 0))
    assert read.tokens[1] == ("a", "cat", "s", "</s>", "</s>")


def test_punctuation_inside_a_token_is_part_of_its_span_whether_the_token_has_it_or_not():
    assert match_spans(["▁i", "▁don't", "▁go"], "I don't go") == [(0, 1), (2, 7), (8, 10)]
    assert match_spans(["▁i", "▁dont", "▁go"], "I don't go") == [(0, 1), (2, 7), (8, 10)]


def test_spaces_on_both_sides_of_a_token_are_no_part_of_its_span():
    assert tidy_spans("a cat  sat", [(0, 2), (1, 7), (6, 10)]) == [(0, 1), (2, 5), (7, 10)]


def test_a_space_after_the_last_word_is_at_the_end_of_the_text():
    assert tidy_spans("cat ", [(0, 0), (0, 3), (3, 4), (0, 0)]) == [(0, 0), (0, 3), (4, 4), (0, 0)]
