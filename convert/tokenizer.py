"""Qwen's byte-level BPE tokenizer, from tokenizer.json to GGUF metadata.

Needs neither transformers nor tokenizers. llama.cpp re-implements the pre-tokenizer by name, so
a tokenizer that splits text in any other way is refused here, not garbled there.
Source: llama-cpp-python 0.3.36, vendor/llama.cpp/conversion/base.py `get_vocab_base`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import gguf

from convert.checkpoint import read_json
from convert.gguf_file import Entry, text, u32
from edgeagent.errors import ConversionError
from edgeagent.gguf_header import ValueType

PRE = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenizer, the same from Qwen1.5 to Qwen3; llama.cpp calls it `qwen2`."""

TAGS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)
"""Always user-defined: as control tokens they would vanish from what the model says."""
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"


class TokenType(IntEnum):
    """What llama.cpp does with a token's text."""

    NORMAL = 1
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A vocabulary with one token per row of the embedding."""

    tokens: list[str]
    types: list[TokenType]
    merges: list[str]
    special_ids: dict[str, int]
    """By role: `eos`, `pad`, `bos`, `eot` …, in the order that they are written."""
    add_special: dict[str, bool]
    """By role: whether that token is put around every text."""
    templates: dict[str, str]
    """Chat templates by name; the main one is `default`."""
    notes: tuple[str, ...]
    """What was changed or is missing, in sentences for the person."""


def read(folder: Path, vocab_size: int) -> Tokenizer:
    """Return the folder's tokenizer, filled up with unused tokens to `vocab_size`.

    Raises:
        ConversionError: a file is missing or malformed, the tokenizer is not Qwen's, or it has
            tokens that the embedding has no row for.
    """
    found = read_json(folder / "tokenizer.json")
    config_file = folder / "tokenizer_config.json"
    if not config_file.is_file():
        raise ConversionError(f"{config_file} is missing: it names the end-of-text token")
    read_json(config_file)
    _check_is_qwen(found, folder / "tokenizer.json")
    added = _added(found, folder)
    tokens = _tokens(found, added, vocab_size, folder)
    types = [TokenType.UNUSED if token is None else TokenType.NORMAL for token in tokens]
    for token_id, token in added.items():
        types[token_id] = _added_type(token)
    notes = []
    hidden = [t["content"] for t in added.values() if t["content"] in TAGS and t.get("special")]
    if hidden:
        notes.append(
            f"marked special, written as user-defined so that they can be seen in what the model "
            f"says: {' '.join(hidden)}"
        )
    merges = _merges(found, folder)
    # gguf-py parses the file again: 40 MB that need not be there twice.
    found.clear()
    special, add_special, templates = _special(folder, vocab_size)
    end = next((i for i, token in added.items() if token["content"] == END_OF_TURN), None)
    if end is not None:
        # llama.cpp looks it up in an unordered map when it is not written, and may find another.
        special["eot"] = end
    # Without a BOS llama.cpp takes token 11 for it: https://github.com/ggml-org/llama.cpp/issues/7898
    if "bos" not in special and END_OF_TEXT in tokens:
        special["bos"] = tokens.index(END_OF_TEXT)
    if "eos" not in special:
        notes.append("no end-of-text token is named; the model may not know when to stop")
    if not templates:
        notes.append("the checkpoint has no chat template; an agent cannot use the file without")
    return Tokenizer(
        tokens=[f"[PAD{i}]" if token is None else token for i, token in enumerate(tokens)],
        types=types,
        merges=merges,
        special_ids=special,
        add_special=add_special,
        templates=templates,
        notes=tuple(notes),
    )


def entries(tokenizer: Tokenizer) -> Iterator[Entry]:
    """Yield the tokenizer's metadata in the order of llama.cpp's converter."""
    yield text("tokenizer.ggml.model", "gpt2")
    yield text("tokenizer.ggml.pre", PRE)
    yield Entry("tokenizer.ggml.tokens", ValueType.STRING, tokenizer.tokens)
    yield Entry("tokenizer.ggml.token_type", ValueType.INT32, [int(t) for t in tokenizer.types])
    yield Entry("tokenizer.ggml.merges", ValueType.STRING, tokenizer.merges)
    for role, token_id in tokenizer.special_ids.items():
        yield u32(f"tokenizer.ggml.{KEYS.get(role, role)}_token_id", token_id)
    for role, is_added in tokenizer.add_special.items():
        yield Entry(f"tokenizer.ggml.add_{role}_token", ValueType.BOOL, is_added)
    names = [name for name in tokenizer.templates if name != "default"]
    if names:
        yield Entry("tokenizer.chat_templates", ValueType.STRING, names)
    for name, template in tokenizer.templates.items():
        suffix = "" if name == "default" else f".{name}"
        yield text(f"tokenizer.chat_template{suffix}", template)


KEYS: Mapping[str, str] = {"pad": "padding", "unk": "unknown", "sep": "seperator"}
"""Roles whose metadata key is spelled otherwise (`seperator` is GGUF's own spelling)."""


def _check_is_qwen(found: Mapping[str, Any], path: Path) -> None:
    steps = _steps(found.get("pre_tokenizer"), "pretokenizers")
    normalizers = _steps(found.get("normalizer"), "normalizers")
    kinds = [step.get("type") for step in steps]
    patterns = [step.get("pattern") for step in steps if step.get("type") == "Split"]
    model = found.get("model")
    reason = ""
    if not isinstance(model, dict) or model.get("type") != "BPE":
        reason = "its model is not BPE"
    elif kinds != ["Split", "ByteLevel"] or patterns != [{"Regex": SPLIT}]:
        reason = f"it splits text by {patterns or kinds}, not as Qwen does"
    elif [step.get("type") for step in normalizers] not in ([], ["NFC"]):
        reason = f"it normalizes text by {normalizers}, not by NFC"
    elif any(
        step.get("behavior", "Isolated") != "Isolated" or step.get("invert") for step in steps
    ):
        reason = "it drops or joins what it splits"
    elif any(step.get("add_prefix_space") for step in steps):
        reason = "it puts a space in front of the text"
    if reason:
        raise ConversionError(f"{path} is not Qwen's tokenizer: {reason}; llama.cpp would differ")


def _steps(found: Any, key: str) -> list[dict[str, Any]]:
    """Return the parts of a pre-tokenizer or normalizer, one by itself being a list of one."""
    if found is None:
        return []
    steps = found.get(key, [found]) if isinstance(found, dict) else [found]
    steps = steps if isinstance(steps, list) else [steps]
    return [step if isinstance(step, dict) else {"type": step} for step in steps]


def _added(found: Mapping[str, Any], folder: Path) -> dict[int, dict[str, Any]]:
    added = {}
    tokens = found.get("added_tokens") or []
    if not isinstance(tokens, list):
        raise ConversionError(f"{folder / 'tokenizer.json'}: added_tokens is no list")
    for token in tokens:
        if not isinstance(token, dict) or not isinstance(token.get("content"), str):
            raise ConversionError(f"{folder}: an added token is {token!r}")
        if not isinstance(token.get("id"), int) or token["id"] < 0:
            raise ConversionError(f"{folder}: added token {token['content']!r} has no id")
        added[token["id"]] = token
    return added


def _tokens(
    found: Mapping[str, Any], added: Mapping[int, Mapping[str, Any]], vocab_size: int, folder: Path
) -> list[str | None]:
    vocabulary = found["model"].get("vocab")
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ConversionError(f"{folder / 'tokenizer.json'} has no vocabulary")
    tokens: list[str | None] = [None] * vocab_size
    spelled = [*vocabulary.items(), *((token["content"], i) for i, token in added.items())]
    for token, token_id in spelled:
        if not isinstance(token_id, int) or not 0 <= token_id < vocab_size:
            raise ConversionError(
                f"{folder}: token {token!r} has the id {token_id}, but config.json gives the "
                f"embedding {vocab_size} rows (vocab_size); the tokenizer is of another model"
            )
        tokens[token_id] = token
    return tokens


def _added_type(token: Mapping[str, Any]) -> TokenType:
    content = token["content"]
    if content in TAGS:
        return TokenType.USER_DEFINED
    looks_special = content.startswith("<|") and content.endswith("|>")
    return TokenType.CONTROL if token.get("special") or looks_special else TokenType.USER_DEFINED


def _merges(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the merges as "a b", from that form or from pairs (transformers 4.45 and later)."""
    merges = found["model"].get("merges")
    if not isinstance(merges, list) or not merges:
        raise ConversionError(f"{folder / 'tokenizer.json'} has no merges")
    joined = []
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_text, pair)):
            raise ConversionError(f"{folder / 'tokenizer.json'}: {merge!r} is not a merge of two")
        # A space inside a token is written as in the byte-level alphabet, for pairs only.
        joined.append(" ".join(part.replace(" ", "\u0120") for part in pair))
    return joined


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _special(
    folder: Path, vocab_size: int
) -> tuple[dict[str, int], dict[str, bool], dict[str, str]]:
    """Return special ids, whether they are added to texts, and chat templates, as gguf-py does."""
    try:
        special = gguf.SpecialVocab(folder, n_vocab=vocab_size)
    except (ValueError, TypeError, AttributeError, LookupError) as exc:
        raise ConversionError(f"{folder / 'tokenizer_config.json'} is malformed: {exc}") from exc
    template = special.chat_template
    if template is None:
        templates = {}
    elif isinstance(template, str):
        templates = {"default": template}
    else:
        templates = {_named(entry, folder): entry["template"] for entry in template}
    add_special = {"bos": False, "eos": False, **special.add_special_token}
    return dict(special.special_token_ids), add_special, templates


def _named(entry: object, folder: Path) -> str:
    """Return the name of one chat template of several."""
    if not isinstance(entry, dict) or not all(_is_text(entry.get(k)) for k in ("name", "template")):
        raise ConversionError(f"{folder}: a chat template is {entry!r}, without name or template")
    name: str = entry["name"]
    return name
