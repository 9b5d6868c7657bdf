"""nano's tokenizer: byte-level BPE of 8,192 entries behind Qwen's pre-tokenizer.

A word is cut in the same pieces with and without the space, quote or underscore before it: merges
are learnt on bare words, and the most frequent pairs of a prefix and a whole word are merged last.
So `Palo Alto` in a message and `"Palo Alto"` in a call are the same tokens, and copying a value is
copying tokens. Trained once and then frozen: every checkpoint depends on it.

    python -m models.nano.tokenizer --sgd DIR --tau DIR
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from models.nano import diet, sgd, tau, values
from models.nano.template import TEMPLATE_FILE, render

VOCABULARY = 8192
N_PREFIXED = 1400
"""Entries that are a prefix character and a whole frequent word."""

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip
"""Not special, as in Qwen3: they are text that the model writes and reads."""


def train(texts: Iterable[str]) -> dict[str, Any]:
    """Return `tokenizer.json` as a value, trained on `texts`; takes about a minute."""
    corpus = list(texts)
    n_merged = VOCABULARY - N_PREFIXED - len(SPECIAL) - len(MARKERS)
    bare = _bare_words(corpus, n_merged)
    return _with_prefixes(bare, corpus)


def _byte_level(split: tuple[pre_tokenizers.PreTokenizer, ...]) -> pre_tokenizers.PreTokenizer:
    bytes_last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*split, bytes_last])


def _qwen_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(QWEN_SPLIT), "isolated", invert=False)


def _bare_words(corpus: list[str], size: int) -> dict[str, Any]:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    letters = pre_tokenizers.Split(tokenizers.Regex(r"\p{L}+"), "isolated")
    tokenizer.pre_tokenizer = _byte_level((_qwen_split(), letters))
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    learnt: dict[str, Any] = json.loads(tokenizer.to_str())
    return learnt


def _with_prefixes(learnt: dict[str, Any], corpus: list[str]) -> dict[str, Any]:
    """Add merges of a prefix character and a whole word, most frequent first, and the specials."""
    vocabulary: dict[str, int] = learnt["model"]["vocab"]
    splitter = _byte_level((_qwen_split(),))
    counts: Counter[str] = Counter()
    for text in corpus:
        counts.update(piece for piece, _ in splitter.pre_tokenize_str(text))
    frequent = sorted(
        (piece for piece in counts if piece not in vocabulary and _is_prefixed(piece, vocabulary)),
        key=lambda piece: (-counts[piece], piece),
    )
    for piece in frequent[:N_PREFIXED]:
        learnt["model"]["merges"].append([piece[0], piece[1:]])
        vocabulary[piece] = len(vocabulary)
    return finished(learnt)


def finished(learnt: dict[str, Any]) -> dict[str, Any]:
    """Return `learnt`, a BPE model with all its merges, with everything else a tokenizer has."""
    first = VOCABULARY - len(SPECIAL) - len(MARKERS)
    n_learnt = len(learnt["model"]["vocab"])
    if n_learnt != first:
        raise ValueError(f"corpus too small: {n_learnt} entries learnt, {first} wanted")
    learnt["added_tokens"] = [
        _added(first + i, text, text in SPECIAL) for i, text in enumerate((*SPECIAL, *MARKERS))
    ]
    learnt["normalizer"] = {"type": "NFC"}
    learnt["pre_tokenizer"] = json.loads(_as_json(_byte_level((_qwen_split(),))))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False,
                  "use_regex": False}  # fmt: skip
    learnt["post_processor"] = byte_level
    learnt["decoder"] = byte_level
    return learnt


def _is_prefixed(piece: str, vocabulary: dict[str, int]) -> bool:
    """Tell whether `piece` is a prefix character (Ġ is a space) and one whole known word."""
    prefix, rest = piece[:1], piece[1:]
    if rest not in vocabulary or not rest.isalpha():
        return False
    # A capital after a space starts a name, and names keep one segmentation.
    return (prefix == "Ġ" or not prefix.isalpha()) and (rest == "I" or not rest[0].isupper())


def _as_json(pre_tokenizer: pre_tokenizers.PreTokenizer) -> str:
    empty = tokenizers.Tokenizer(models.BPE())
    empty.pre_tokenizer = pre_tokenizer
    return json.dumps(json.loads(empty.to_str())["pre_tokenizer"])


def _added(token_id: int, text: str, is_special: bool) -> dict[str, Any]:
    return {"id": token_id, "content": text, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": is_special}  # fmt: skip


def write(folder: Path, learnt: dict[str, Any]) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(learnt, ensure_ascii=False)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 4096,
        "chat_template": TEMPLATE_FILE.read_text(encoding="utf-8"),
        "added_tokens_decoder": {
            str(t["id"]): {key: value for key, value in t.items() if key != "id"}
            for t in learnt["added_tokens"]
        },
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def corpus(sgd_folder: Path, tau_folder: Path, seed: int = 0) -> Iterator[str]:
    """Yield conversation text without special tokens: restaurants to airlines, and ids."""
    rng = Random(seed)
    tools = sgd.schemas(sgd_folder, "train")
    for recorded in sgd.read(sgd_folder, ("train",)):
        if rng.random() < 0.5:
            dialogue = sgd.dialogue_of(recorded, tools)
            yield _plain(render(dialogue.messages[:12], dialogue.tools))
    for dialogue in tau.dialogues(tau_folder):
        # The few airline conversations count as much as their domain will in training.
        for _ in range(6):
            yield _plain(render(dialogue.messages, dialogue.tools))
    for dialogue in diet.dialogues(rng, 3000):
        yield _plain(render(dialogue.messages, dialogue.tools))
    for _ in range(4000):
        yield f"{values.user_id(rng)} {values.airport(rng)} {values.payment_id(rng)}"


def _plain(text: str) -> str:
    for token in (*SPECIAL, *MARKERS):
        text = text.replace(token, "\n")
    return text


def main() -> None:
    """Train and write the tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sgd", type=Path, required=True)
    parser.add_argument("--tau", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "work" / "tokenizer")
    options = parser.parse_args()
    write(options.out, train(corpus(options.sgd, options.tau)))
    print(options.out)


if __name__ == "__main__":
    main()
