"""Makes Qwen3-shaped GGUF files of about 200 KiB with random weights, whole and broken.

The shape, the byte-level BPE vocabulary and the special tokens are those of `nano`, so an engine
that runs one of these runs the real thing; what it says is noise.

    python -m tests.tiny_gguf /tmp/tiny.gguf
"""

from __future__ import annotations

import itertools
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from gguf import GGUFWriter, LlamaFileType, TokenType

CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
USER_DEFINED = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<think>", "</think>",
)  # fmt: skip

NANO_TEMPLATE = """\
{{- '<|im_start|>system\\n' }}
{%- for tool in tools or [] %}
    {%- set tool = tool.function if tool.function else tool %}
    {{- tool.name + '(' }}
    {%- for name, schema in (tool.parameters.properties or {}).items() %}
        {{- (', ' if not loop.first else '') + name }}
        {{- '' if name in (tool.parameters.required or []) else '?' }}
        {%- if schema.enum %}{{- '=' + schema.enum | join('|') }}{%- endif %}
    {%- endfor %}
    {{- ')\\n' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {{- '\\n' if not loop.first else '' }}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""The prompt format of `nano`: one signature line per tool, no policy text."""

HERMES_TEMPLATE = """\
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{%- if tools %}
    {{- '# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools>' }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\\n' + (message.content or '') }}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or message.content %}{{- '\\n' }}{%- endif %}
            {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content }}
        {{- '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""ChatML with Hermes calls and an empty think block, the shape of Qwen3's own template."""

LLAMA_TEMPLATE = """\
{{- '<|im_start|>system<|sep|>\\n\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{%- for tool in tools %}{{- tool | tojson(indent=4) }}{{- '\\n\\n' }}{%- endfor %}
{{- '<|im_end|>' }}
{%- for message in messages %}
    {%- if message.role == 'system' %}{%- continue %}{%- endif %}
    {%- if message.tool_calls and message.tool_calls | length > 1 %}
        {{- raise_exception('This model only supports single tool-calls at once!') }}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '<|sep|>\\n\\n' }}
    {%- if message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + call.arguments | tojson + '}' }}
    {%- else %}
        {{- message.content }}
    {%- endif %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant<|sep|>\\n\\n' }}{%- endif %}
"""
"""The shape of Llama 3's template: bare JSON with `parameters`, one call per message."""

MISTRAL_TEMPLATE = """\
{{- bos_token }}
{%- set turn = namespace(is_user=true) %}
{%- for message in messages | rejectattr('role', 'in', ['system', 'tool']) %}
    {%- if not message.tool_calls %}
        {%- if (message.role == 'user') != turn.is_user %}
            {{- raise_exception('conversation roles must alternate user/assistant') }}
        {%- endif %}
        {%- set turn.is_user = not turn.is_user %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {%- if loop.last %}
            {{- '[AVAILABLE_TOOLS]' + tools | tojson + '[/AVAILABLE_TOOLS]' }}
        {%- endif %}
        {{- '[INST]' }}
        {%- if loop.last and messages[0].role == 'system' %}
            {{- messages[0].content + '\\n\\n' }}
        {%- endif %}
        {{- message.content + '[/INST]' }}
    {%- elif message.role == 'system' %}
        {%- continue %}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS]' + {'content': message.content} | tojson + '[/TOOL_RESULTS]' }}
    {%- elif message.tool_calls %}
        {{- '[TOOL_CALLS][' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}
                {{- raise_exception('Tool call IDs should be alphanumeric with length 9!') }}
            {%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
            {{- ', ' if not loop.last else ']' + eos_token }}
        {%- endfor %}
    {%- else %}
        {{- message.content + eos_token }}
    {%- endif %}
{%- endfor %}
"""
"""The shape of Mistral's: tools in the last message, a list of calls with ids of nine letters,
and words before each message of the customer."""

_SAMPLE = """
{"name": "respond_to_user", "arguments": {"message": "Your reservation is confirmed for May."}}
{"name": "get_reservation_details", "arguments": {"reservation_id": "ABC123"}}
{"name": "search_direct_flight", "arguments": {"origin": "JFK", "destination": "SEA"}}
{"name": "search_onestop_flight", "arguments": {"origin": "SFO", "date": "2024-05-20"}}
{"name": "book_reservation", "arguments": {"user_id": "a_b_1", "cabin": "economy", "flights":
[{"flight_number": "HAT001", "date": "2024-05-20"}], "passengers": [{"first_name": "Ann",
"last_name": "Lee", "dob": "1990-01-01"}], "payment_methods": [], "total_baggages": 0}}
{"name": "update_reservation_baggages", "arguments": {"nonfree_baggages": 1}}
{"name": "transfer_to_human_agents", "arguments": {"summary": "The customer asks for a person."}}
{"name": "defer_to_larger_model", "arguments": {"reason": "The request needs the larger model."}}
user system assistant tool I would like to change my flight to the one in the morning, please.
Sure, I can help you with that. What is your user id? Which cabin do you want to book?
"""
_SPLIT = re.compile(r" ?[A-Za-z]+|\d| ?[^\sA-Za-z\d]+\n*|\s+")


def _byte_symbols() -> list[str]:
    """Return the printable stand-in of each byte, as GPT-2's byte-level BPE has it."""
    kept = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    symbols, spare = [""] * 256, 0x100
    for byte in range(256):
        if byte in kept:
            symbols[byte] = chr(byte)
        else:
            symbols[byte] = chr(spare)
            spare += 1
    return symbols


def _learn_merges(n_merges: int) -> list[tuple[str, str]]:
    symbols = _byte_symbols()
    words = Counter(
        tuple(symbols[byte] for byte in word.encode()) for word in _SPLIT.findall(_SAMPLE)
    )
    merges: list[tuple[str, str]] = []
    while len(merges) < n_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = Counter({_merged(word, best): count for word, count in words.items()})
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return tuple(out)


def _add_vocabulary(
    writer: GGUFWriter, control: tuple[str, ...], user_defined: tuple[str, ...], n_merges: int
) -> int:
    merges = _learn_merges(n_merges)
    plain = [*_byte_symbols(), *dict.fromkeys(left + right for left, right in merges)]
    tokens = [*plain, *control, *user_defined]
    kinds = (
        [TokenType.NORMAL] * len(plain)
        + [TokenType.CONTROL] * len(control)
        + [TokenType.USER_DEFINED] * len(user_defined)
    )
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    return len(tokens)


def write_tiny(
    path: Path,
    *,
    template: str | None = NANO_TEMPLATE,
    seed: int = 0,
    n_ctx: int = 8192,
    n_layer: int = 2,
    control: tuple[str, ...] = CONTROL,
    user_defined: tuple[str, ...] = USER_DEFINED,
    n_merges: int = 330,
    name: str = "tiny",
) -> Path:
    """Write a random-weight model to `path` and return it; same arguments, same bytes.

    `template` None leaves the chat template out. `control` must hold `<|im_end|>` and
    `<|endoftext|>`.
    """
    n_embd, n_ff, n_head, n_kv, head_dim = 64, 128, 2, 1, 32
    writer = GGUFWriter(path, "qwen3")
    writer.add_name(name)
    writer.add_file_type(LlamaFileType.MOSTLY_F16)
    writer.add_block_count(n_layer)
    writer.add_context_length(n_ctx)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_kv)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    n_vocab = _add_vocabulary(writer, control, user_defined, n_merges)
    if template is not None:
        writer.add_chat_template(template)
    rng = np.random.default_rng(seed)

    def matrix(tensor: str, n_out: int, n_in: int, scale: float) -> None:
        values = rng.standard_normal((n_out, n_in), dtype=np.float32) * scale
        writer.add_tensor(tensor, values.astype(np.float16))

    def ones(tensor: str, n: int) -> None:
        writer.add_tensor(tensor, np.ones(n, dtype=np.float32))

    matrix("token_embd.weight", n_vocab, n_embd, 0.3)
    ones("output_norm.weight", n_embd)
    for layer in range(n_layer):
        block = f"blk.{layer}."
        ones(f"{block}attn_norm.weight", n_embd)
        ones(f"{block}ffn_norm.weight", n_embd)
        ones(f"{block}attn_q_norm.weight", head_dim)
        ones(f"{block}attn_k_norm.weight", head_dim)
        matrix(f"{block}attn_q.weight", n_head * head_dim, n_embd, 0.2)
        matrix(f"{block}attn_k.weight", n_kv * head_dim, n_embd, 0.2)
        matrix(f"{block}attn_v.weight", n_kv * head_dim, n_embd, 0.2)
        matrix(f"{block}attn_output.weight", n_embd, n_head * head_dim, 0.2)
        matrix(f"{block}ffn_gate.weight", n_ff, n_embd, 0.2)
        matrix(f"{block}ffn_up.weight", n_ff, n_embd, 0.2)
        matrix(f"{block}ffn_down.weight", n_embd, n_ff, 0.2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_truncated(path: Path, keep: float = 0.7) -> Path:
    """Write the first `keep` of a good file: a copy that broke off."""
    whole = write_tiny(path.with_suffix(".whole")).read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    return path


def write_garbage(path: Path) -> Path:
    """Write a right magic with noise behind it."""
    noise = np.random.default_rng(1).integers(0, 256, 4096, dtype=np.uint8).tobytes()
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + noise)
    return path


if __name__ == "__main__":
    print(write_tiny(Path(sys.argv[1])))
