"""Runs llama.cpp's own quantizer and says what it did; a process of its own, for it may abort.

    python tests/llama_quantizer.py < JOBS.json

Each job is a JSON object: `source`, `out`, `file_type` (a number), and what else of `PARAMETERS`
is wanted. `imatrix` names an .npz file with an array per tensor. A `dry_run` writes nothing.
Prints a JSON list: for each job the exit code and the lines that llama.cpp logged.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

import llama_cpp as lc
import numpy as np
from llama_cpp import llama_cpp as raw

PARAMETERS = ("output_tensor_type", "token_embedding_type", "pure", "allow_requantize", "dry_run")
INT, TEXT = 0, 3
"""Tags of metadata that a job adds."""
logged: list[str] = []


@lc.llama_log_callback
def on_log(level: int, text: bytes, _: Any) -> None:
    logged.append(text.decode("utf-8", "replace"))


def quantize(job: dict[str, Any]) -> int:
    params = lc.llama_model_quantize_default_params()
    params.nthread, params.ftype = 2, job["file_type"]
    for name in PARAMETERS:
        if name in job:
            setattr(params, name, job[name])
    kept: list[Any] = []
    if job.get("imatrix"):
        arrays = dict(np.load(job["imatrix"]))
        entries = (raw.llama_model_imatrix_data * (len(arrays) + 1))()
        for entry, (name, values) in zip(entries, arrays.items(), strict=False):
            values = np.ascontiguousarray(values, np.float32)
            kept.append(values)
            entry.name, entry.size = name.encode(), values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        params.imatrix = entries
    if job.get("overrides"):
        overrides = (raw.llama_model_tensor_override * (len(job["overrides"]) + 1))()
        for override, (pattern, kind) in zip(overrides, job["overrides"], strict=False):
            override.pattern, override.type = pattern.encode(), kind
        params.tt_overrides = overrides
    if job.get("entries"):
        added = (raw.llama_model_kv_override * (len(job["entries"]) + 1))()
        for entry, (key, value) in zip(added, job["entries"], strict=False):
            entry.key = key.encode()
            if isinstance(value, int):
                entry.tag, entry.value.val_i64 = INT, value
            else:
                entry.tag, entry.value.val_str = TEXT, value.encode()[:127]
        params.kv_overrides = added
    return int(
        lc.llama_model_quantize(job["source"].encode(), job["out"].encode(), ctypes.byref(params))
    )


def main() -> None:
    lc.llama_log_set(on_log, ctypes.c_void_p(0))
    lc.llama_backend_init()
    answers = []
    for job in json.load(sys.stdin):
        logged.clear()
        code = quantize(job)
        answers.append({"code": code, "log": "".join(logged).splitlines()})
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
