"""Runs a GGUF file in llama.cpp and prints what it said; a process of its own, for it may abort.

    python tests/llama_logits.py FILE.gguf OUT.npy TEXT_FILE TOKEN…

Writes the logits after every TOKEN, shape (n, vocab_size). Prints one JSON line: the ids of
TEXT_FILE's content with and without special tokens parsed, and the vocabulary's own facts.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import llama_cpp as lc
import numpy as np

from edgeagent.engine import amx


def main() -> None:
    path, out, text_file, *tokens = sys.argv[1:]
    amx.shut_out()
    lc.llama_backend_init()
    model = lc.llama_model_load_from_file(path.encode(), lc.llama_model_default_params())
    vocab = lc.llama_model_get_vocab(model)
    params = lc.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.n_threads = params.n_threads_batch = 1
    params.flash_attn_type = lc.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.type_k = params.type_v = lc.GGML_TYPE_F32
    context = lc.llama_init_from_model(model, params)
    n, n_vocab = len(tokens), lc.llama_vocab_n_tokens(vocab)
    batch = lc.llama_batch_init(n, 0, 1)
    batch.n_tokens = n
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = int(token), i, 1
        batch.seq_id[i][0], batch.logits[i] = 0, True
    assert lc.llama_decode(context, batch) == 0
    logits = np.ctypeslib.as_array(lc.llama_get_logits(context), (n, n_vocab))
    np.save(out, logits)
    text = Path(text_file).read_bytes()
    facts = {
        "ids": tokenize(vocab, text, special=True),
        "plain_ids": tokenize(vocab, text, special=False),
        "bos": lc.llama_vocab_bos(vocab),
        "eos": lc.llama_vocab_eos(vocab),
        "eot": lc.llama_vocab_eot(vocab),
        "add_bos": bool(lc.llama_vocab_get_add_bos(vocab)),
        "eog": [i for i in range(n_vocab) if lc.llama_vocab_is_eog(vocab, i)],
    }
    print(json.dumps(facts))


def tokenize(vocab: object, text: bytes, special: bool) -> list[int]:
    room = (ctypes.c_int32 * (len(text) + 8))()
    n = lc.llama_tokenize(vocab, text, len(text), room, len(room), False, special)
    return list(room[:n])


if __name__ == "__main__":
    main()
