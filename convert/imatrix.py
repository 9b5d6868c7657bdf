"""Collects an importance matrix: reads texts or conversations through a model, and sums.

Conversations are rendered by the model's own template, with the tags of tool calls as the model
writes them; the tokens of its calls may count more than others. The head of a tied model is
covered too, which llama.cpp's own tool leaves out.

    python -m convert.imatrix MODEL.gguf calls.jsonl words.txt -o model.imatrix.gguf
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from convert import importance
from convert.importance import Importance, Sums
from edgeagent.engine.observer import Activations, Advanced, Material, Plan, Talk, Text, observe
from edgeagent.errors import ConversionError, EdgeAgentError
from edgeagent.gguf_header import Header

ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


def read(path: Path) -> list[Material]:
    """Return what the file gives to read: one text, or the conversations of a JSON Lines file.

    A line of the latter is `{"messages": […], "tools": […]}` in OpenAI's layout, or
    `{"text": "…"}`. A file is taken for such where its name ends in `.jsonl` or its first line
    is an object with messages.

    Raises:
        ConversionError: it cannot be read, is not UTF-8, or a line is neither.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConversionError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise ConversionError(f"{path} is not UTF-8 text: {exc}") from exc
    lines = content.split("\n")
    if path.suffix != ".jsonl" and not _begins_with_messages(lines):
        return [Text(content)]
    found = [
        _material(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if not found:
        raise ConversionError(f"{path} holds no conversation")
    return found


def collect(plan: Plan, datasets: Sequence[str]) -> Iterator[Advanced | Activations | Importance]:
    """Yield progress, what was seen, and last the importance matrix; `observe` lists the errors.

    Raises:
        ConversionError: no weight of the model was driven.
    """
    for said in observe(plan):
        yield said
        if isinstance(said, Activations):
            yield importance_of(said, plan, datasets)


def importance_of(seen: Activations, plan: Plan, datasets: Sequence[str]) -> Importance:
    """Return the sums as a matrix, its counts whole numbers as llama.cpp keeps them.

    Raises:
        ConversionError: nothing was summed.
    """
    if not seen.sums or not seen.weight:
        raise ConversionError(f"{plan.path} has no weights that an importance could be given to")
    # Weighted sums are scaled so that their mean stays and they count the tokens there are.
    scale = seen.n_tokens / seen.weight
    counts = np.array([seen.n_tokens], np.float32)
    return Importance(
        {
            name: Sums((values * scale).astype(np.float32)[None, :], counts)
            for name, values in seen.sums.items()
        },
        tuple(datasets),
        seen.n_chunks,
        seen.n_chunk,
    )


def left_out(found: Importance, header: Header) -> list[str]:
    """Return the weights of the model that nothing was collected for, experts mostly."""
    is_tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    return [
        tensor.name
        for tensor in header.tensors
        if len(tensor.shape) > 1
        and tensor.name.endswith(".weight")
        and not tensor.name.endswith("_norm.weight")
        and (is_tied or tensor.name != "token_embd.weight")
        and tensor.name not in found.sums
    ]


def _begins_with_messages(lines: Sequence[str]) -> bool:
    first = next((line for line in lines if line.strip()), "")
    if not first.lstrip().startswith("{"):
        return False
    try:
        found = json.loads(first)
    except ValueError:
        return False
    return isinstance(found, dict) and isinstance(found.get("messages"), list)


def _material(path: Path, number: int, line: str) -> Material:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as exc:
        raise ConversionError(f"{path}, line {number}: not JSON: {exc}") from exc
    if isinstance(found, dict) and isinstance(found.get("text"), str):
        return Text(found["text"])
    messages = found.get("messages") if isinstance(found, dict) else found
    tools = (found.get("tools") or []) if isinstance(found, dict) else []
    if not isinstance(messages, list) or not messages or not isinstance(tools, list):
        raise ConversionError(
            f"{path}, line {number}: neither messages with their tools nor a text"
        )
    try:
        for message in messages:
            _check_message(message)
        for tool in tools:
            _check_tool(tool)
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as exc:
        raise ConversionError(
            f"{path}, line {number}: not a conversation in OpenAI's layout: {_reason(exc)}"
        ) from exc
    return Talk(tuple(messages), tuple(tools))


def _check_message(message: Mapping[str, Any]) -> None:
    if message["role"] not in ROLES:
        raise ValueError(f"the role {message['role']!r}")
    if not isinstance(message.get("content"), str | list | None):
        raise ValueError("a content that is no text")
    for call in message.get("tool_calls") or []:
        function = call.get("function", call)
        arguments = function["arguments"]
        if isinstance(arguments, str):
            arguments = json.loads(arguments)
        if not isinstance(function["name"], str) or not isinstance(arguments, dict):
            raise ValueError("a tool call without name or arguments")


def _check_tool(tool: Mapping[str, Any]) -> None:
    if not isinstance(tool.get("function", tool)["name"], str):
        raise ValueError("a tool without a name")


def _reason(exc: Exception) -> str:
    return f"it lacks {exc}" if isinstance(exc, KeyError) else str(exc)


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert.imatrix", description=__doc__)
    parser.add_argument("model", type=Path, help="GGUF file, better unquantized or Q8_0")
    parser.add_argument("texts", type=Path, nargs="+", help="plain text or JSON Lines")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--chunk", type=int, help="tokens of plain text in a context")
    parser.add_argument("--call-weight", type=float, default=1.0)
    given = parser.parse_args(arguments)
    try:
        material = [part for path in given.texts for part in read(path)]
        plan = Plan(
            given.model, tuple(material), n_chunk=given.chunk, call_weight=given.call_weight
        )
        for said in collect(plan, [path.name for path in given.texts]):
            if isinstance(said, Importance):
                importance.write(said, given.out)
    except EdgeAgentError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
