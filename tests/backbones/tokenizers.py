"""Small tokenizers of every kind, made by the tests: WordPiece, SentencePiece (unigram), BPE with byte fall-back."""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing
from transformers import BertTokenizer, GemmaTokenizer, Siglip2Tokenizer, XLMRobertaTokenizer

WORDS = ["a", "photo", "of", "the", "cat", "dog", "and", "an", "look", "key", "near", "star", "man"]
PARTS = ["um", "bre", "lla", "s", ",", "'", "猫"]


def wordpiece() -> BertTokenizer:
    """BERT's, as ALIGN, BLIP and Chinese-CLIP have it."""
    whole = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *PARTS]
    return BertTokenizer(vocab={w: i for i, w in enumerate([*whole, "##bre", "##lla", "##s"])}, model_max_length=64)


def sentencepiece() -> XLMRobertaTokenizer:
    """XLM-R's, as AltCLIP and MetaCLIP 2 have it."""
    marked = ["▁", *(f"▁{w}" for w in WORDS), "▁um"]
    pieces = [(p, -4.0) for p in [*marked, *PARTS]] + [(c, -9.0) for c in "bcdefghijklmnopqrtuvwxyz"]
    vocab = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces, ("<mask>", 0.0)]
    return XLMRobertaTokenizer(vocab=vocab, model_max_length=512)


def byte_fallback(kind: Any) -> GemmaTokenizer | Siglip2Tokenizer:
    """Gemma's, as SigLIP 2 has it: pads to the right, ends with EOS."""
    entries = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{b:02X}>" for b in range(256))]
    entries += list("▁abcdefghijklmnopqrstuvwxyz,'")
    merges = []
    for word in [*WORDS, "umbre", "lla"]:
        done = word[0]
        for character in word[1:]:
            merges.append((done, character))
            done += character
            entries.append(done)
        merges.append(("▁", done))
        entries.append(f"▁{done}")
    vocab = {entry: i for i, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = kind(vocab=vocab, merges=list(dict.fromkeys(merges)), padding_side="right", model_max_length=16)
    tokenizer._tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer
