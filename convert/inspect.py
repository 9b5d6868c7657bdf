"""What is in a GGUF file: sizes, types, template, and the tokens an agent depends on.

Reads the head only and runs nothing but the chat template, sandboxed.

    python -m convert.inspect FILE.gguf
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, prod
from pathlib import Path
from typing import Any

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from convert.tokenizer import TAGS, TokenType
from edgeagent import gguf_header
from edgeagent.errors import EdgeAgentError
from edgeagent.gguf_header import Header

LONGEST = 200
"""Characters of a text value that are shown."""
FAILURES = (
    jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError,
    RecursionError,
)  # fmt: skip
"""What a template of someone else may do when it is run."""
PROBE = {
    "type": "function",
    "function": {
        "name": "probe_tool",
        "description": "A probe.",
        "parameters": {"type": "object", "properties": {"probe_argument": {"type": "string"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Findings:
    """What a person or a script wants to know of the file."""

    path: str
    size_bytes: int
    n_weights: int
    bits_per_weight: float
    quant: str
    architecture: str
    types: dict[str, int]
    """Tensors by type."""
    tensors: list[dict[str, Any]]
    """Name, type, shape and bytes, in the file's order."""
    metadata: dict[str, Any]
    """Arrays by their length, long texts by their beginning."""
    template: str
    """`renders tools`, `ignores tools`, `fails: …` or `missing`."""
    special: dict[str, str]
    """Token by role: eos, eot, bos, padding."""
    tags: dict[str, str]
    """Type of each tool tag, or `missing`."""
    is_tied: bool
    """Whether the embedding serves as head."""


def inspect(path: Path) -> Findings:
    """Return what the file's head says.

    Raises:
        ModelLoadError: the file is missing, damaged, cut short, or not GGUF.
    """
    head = gguf_header.read(path)
    n_weights = sum(prod(tensor.shape) for tensor in head.tensors)
    n_bytes = sum(tensor.n_bytes for tensor in head.tensors)
    tokens = _tokens(head)
    return Findings(
        path=str(path),
        size_bytes=head.size_bytes,
        n_weights=n_weights,
        bits_per_weight=round(8 * n_bytes / n_weights, 3) if n_weights else 0.0,
        quant=head.quant,
        architecture=head.text("general.architecture"),
        types=dict(Counter(tensor.type.name for tensor in head.tensors).most_common()),
        tensors=[
            {"name": t.name, "type": t.type.name, "shape": list(t.shape), "bytes": t.n_bytes}
            for t in head.tensors
        ],
        metadata={key: _shortened(value) for key, value in head.metadata.items()},
        template=template_verdict(head.text("tokenizer.chat_template")),
        special=_special(head, tokens),
        tags=_tags(head, tokens),
        is_tied=not any(tensor.name == "output.weight" for tensor in head.tensors),
    )


def template_verdict(template: str) -> str:
    """Say whether a chat template shows the model a tool that it is given."""
    if not template:
        return "missing"
    try:
        text = _render(template, answered=False)
    except FAILURES as exc:
        return f"fails: {' '.join(str(exc).split())}"
    return "renders tools" if "probe_tool" in text else "ignores tools"


def rendered(template: str, *, answered: bool) -> str | None:
    """Return a short conversation, with an answer of the model or not; None where it fails."""
    try:
        return _render(template, answered=answered) if template else None
    except FAILURES:
        return None


def _render(template: str, *, answered: bool) -> str:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": str}
    # Escapes nothing, unlike jinja's own: as transformers renders templates.
    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    messages = [{"role": "user", "content": "hello"}]
    messages += [{"role": "assistant", "content": "Hello."}] if answered else []
    text: str = environment.from_string(template).render(
        messages=messages,
        tools=[PROBE],
        add_generation_prompt=not answered,
        enable_thinking=False,
    )
    return text


def lines(found: Findings) -> list[str]:
    """Return the findings for a person, tensors left to `--json`."""
    return [
        f"file          {found.path}",
        f"size          {found.size_bytes:,} bytes",
        f"weights       {found.n_weights:,}, {found.bits_per_weight} bits each",
        f"type          {found.quant or 'not said'}",
        f"tensors       {', '.join(f'{n} {kind}' for kind, n in found.types.items())}",
        f"head          {'the embedding (tied)' if found.is_tied else 'its own'}",
        f"template      {found.template}",
        *(f"{role:<13} {token}" for role, token in found.special.items()),
        *(f"{tag:<16} {kind}" for tag, kind in found.tags.items()),
        *(f"{key} = {value}" for key, value in found.metadata.items()),
    ]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tokens(head: Header) -> Sequence[object]:
    tokens = head.metadata.get("tokenizer.ggml.tokens")
    return tokens if isinstance(tokens, list) else []


def _special(head: Header, tokens: Sequence[object]) -> dict[str, str]:
    special = {}
    for role in ("eos", "eot", "bos", "padding"):
        token_id = head.number(f"tokenizer.ggml.{role}_token_id")
        if token_id is not None:
            known = 0 <= token_id < len(tokens)
            special[role] = f"{token_id} {tokens[token_id] if known else '(no such token)'}"
    return special


def _tags(head: Header, tokens: Sequence[object]) -> dict[str, str]:
    types = head.metadata.get("tokenizer.ggml.token_type")
    types = types if isinstance(types, list) else []
    by_token: Mapping[object, object] = dict(zip(tokens, types, strict=False))
    return {tag: _type_name(by_token[tag]) if tag in by_token else "missing" for tag in TAGS}


def _type_name(number: object) -> str:
    known = {int(kind): kind.name for kind in TokenType}
    return known.get(number, str(number)) if isinstance(number, int) else str(number)


def _shortened(value: gguf_header.Value) -> Any:
    if isinstance(value, list):
        return f"[{len(value)} values]"
    if isinstance(value, str) and len(value) > LONGEST:
        return f"{value[:LONGEST]}… ({len(value)} characters)"
    # JSON has no word for these.
    return str(value) if isinstance(value, float) and not isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the findings; return the exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 1:
        print("usage: python -m convert.inspect FILE.gguf", file=sys.stderr)
        return 2
    try:
        print("\n".join(lines(inspect(Path(given[0])))))
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
