"""The model's own chat template, run in a sandbox as Hugging Face runs it.

The template is the only source of the prompt format. Knows no tokens and no grammar.
Source: transformers 4.56, `utils/chat_template_utils.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edgeagent.errors import TemplateError
from edgeagent.messages import Json

_ADVICE = "use an instruct model whose template takes tools"


class Template:
    """A parsed chat template."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """Parse `source`; `special` names token texts such as `bos_token` for it.

        Raises:
            TemplateError: it is not a template, or has no place for tools.
        """
        if not source.strip():
            raise TemplateError(f"the model has no chat template; {_ADVICE}")
        if "tools" not in source:
            raise TemplateError(f"the model's chat template does not take tools; {_ADVICE}")
        self.source = source
        self._special = dict(special)
        try:
            self._compiled = _environment().from_string(source)
        except jinja2.TemplateError as exc:
            raise TemplateError(
                f"the model's chat template does not parse: {exc}; {_ADVICE}"
            ) from exc

    def render(
        self,
        messages: Sequence[Mapping[str, Json]],
        tools: Sequence[Mapping[str, Json]],
        *,
        asks: bool = True,
        thinking: bool | None = False,
    ) -> str:
        """Return the prompt's text, ending where the model begins to write if `asks`.

        `thinking` None leaves the choice to the template.

        Raises:
            TemplateError: the template refuses the conversation or fails.
        """
        extra = {} if thinking is None else {"enable_thinking": thinking}
        try:
            return self._compiled.render(
                messages=messages,
                tools=list(tools),
                documents=None,
                add_generation_prompt=asks,
                **self._special,
                **extra,
            )
        # What a template may do to its arguments is open: an undefined field, text plus a dict,
        # a missing key, a division; all of them are the template's fault.
        except (
            jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError,
            AttributeError, RecursionError,
        ) as exc:  # fmt: skip
            raise TemplateError(
                f"the model's chat template failed on a conversation with tools: {exc}; {_ADVICE}"
            ) from exc


class _Generation(Extension):
    """Lets `{% generation %}`, which marks training targets, pass its body through."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it as a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: Json,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # ensure_ascii would write the stand-ins of untrusted characters as escapes, which could not
    # be told from trusted text any more; no known template asks for it.
    return json.dumps(
        value, ensure_ascii=False, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
