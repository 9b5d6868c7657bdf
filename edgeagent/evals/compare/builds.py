"""The files that are compared: what each is called, weighs, and was made from.

Reads heads and hashes; loads nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

from edgeagent import catalog, gguf_header, manifest
from edgeagent.errors import UsageError
from edgeagent.evals import record
from edgeagent.gguf_header import Header
from edgeagent.manifest import DEFAULT, Manifest

_TOKENIZER = (
    "tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type", "tokenizer.ggml.merges",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Build:
    """One file."""

    label: str
    """Its weight type where that tells it from the others, else its file name; unique."""
    model: catalog.Model
    quant: str
    sha256: str
    size_bytes: int
    n_params: int
    bits_per_weight: float
    tokenizer_sha256: str
    n_vocab: int


def named(names: Sequence[str], base: str | None, lent: str | None) -> list[Build]:
    """Return the builds that the person named, the base first; one named twice comes once.

    `base` None is the first name. A file that no manifest knows is run by the manifest `lent`,
    or else by the base's: its prompt format is its model's.

    Raises:
        ModelNotFound: there is no such file or manifest.
        ModelLoadError: a file is damaged or holds no model.
        UsageError: no build is left to compare, or a server was named.
    """
    for name in (*names, *([base] if base else [])):
        if name.startswith(("http://", "https://")):
            raise UsageError(f"{name} is a server; compare takes GGUF files and models by name")
    models = [catalog.resolve(name) for name in ([base, *names] if base else names)]
    once = list({model.path.resolve(): model for model in models}.values())
    host = _lender(lent) or once[0].manifest
    builds = [_described(_hosted(model, host)) for model in once]
    return _labelled(builds)


def _lender(name: str | None) -> Manifest | None:
    if name is None:
        return None
    found = catalog.find_manifest(name)
    if found is None:
        names = ", ".join(catalog.manifest_names())
        raise UsageError(f"no manifest is called {name!r}; there are {names}")
    return found


def _hosted(model: catalog.Model, host: Manifest) -> catalog.Model:
    is_loose = model.manifest.model_copy(update={"name": ""}) == DEFAULT
    return replace(model, manifest=host) if is_loose else model


def _described(model: catalog.Model) -> Build:
    header = gguf_header.read(model.path)
    n_params = sum(prod(tensor.shape) for tensor in header.tensors)
    if not n_params:
        raise UsageError(f"{model.path} holds no weights; use the file with the model")
    n_bytes = sum(tensor.n_bytes for tensor in header.tensors)
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    quant = header.quant or model.quant
    return Build(
        label=quant or model.path.stem,
        model=model,
        quant=quant,
        sha256=manifest.sha256(model.path),
        size_bytes=header.size_bytes,
        n_params=n_params,
        bits_per_weight=8 * n_bytes / n_params,
        tokenizer_sha256=_tokenizer(header),
        n_vocab=len(tokens) if isinstance(tokens, list) else 0,
    )


def _tokenizer(header: Header) -> str:
    return record.hash_of(json.dumps(header.metadata.get(key)) for key in _TOKENIZER)


def _labelled(builds: Sequence[Build]) -> list[Build]:
    """Return them with labels that no two share."""
    labels = [build.label for build in builds]
    stems = [build.model.path.stem for build in builds]
    made = []
    for number, build in enumerate(builds, start=1):
        label = build.label
        if labels.count(label) > 1:
            stem = build.model.path.stem
            label = stem if stems.count(stem) == 1 else f"{stem} ({number})"
        made.append(replace(build, label=label))
    return made
