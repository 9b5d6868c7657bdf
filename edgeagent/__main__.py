"""The command line: a table of verbs, each imported when it is asked for.

Knows what to do with an error that nobody caught: one line on stderr, the rest in the log.
Try: edgeagent --help
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from types import TracebackType
from typing import Any

import click
from click.shell_completion import CompletionItem

from edgeagent import paths
from edgeagent.errors import EdgeAgentError

VERBS = {
    "chat": "Open the app; `edgeagent` alone does the same.",
    "run": "Answer one message, or one per line of stdin, without a screen.",
    "models": "List, fetch, show, check and remove models.",
    "scenario": "List the desks to serve, start one over, bring in data.",
    "sessions": "List, show and export conversations.",
    "outbox": "Turns that wait for the larger model.",
    "convert": "Turn a checkpoint into a GGUF file.",
    "quantize": "Turn a GGUF file into one of another type.",
    "imatrix": "See which inputs of a model matter, for a better build.",
    "inspect": "Show what a GGUF file holds.",
    "eval": "Run a model through a benchmark and score it.",
    "score": "Score given predictions; needs no model.",
    "compare": "Show what each build of a model costs and what it loses.",
    "bench": "Show what each step of a conversation costs, beside other engines.",
    "doctor": "Check this machine and this installation.",
    "config": "Show the settings and where they come from.",
    "completion": "Print the completion script of a shell.",
}
"""Verb → one line of help. Each lives in `edgeagent.commands.<verb>` and is called `command`."""

INTERRUPTED = 130
LOG_NAME = "edgeagent.log"
log = logging.getLogger("edgeagent")


class Verbs(click.Group):
    """Lists the verbs without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's module and return its command; None for an unknown verb."""
        if cmd_name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"edgeagent.commands.{cmd_name}").command
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Let `edgeagent` and `edgeagent -c` mean `edgeagent chat` and `edgeagent chat -c`."""
        own = {"-h", "--help", "-v", "--version"}
        is_bare = not args and not ctx.resilient_parsing  # completion asks for the verbs themselves
        if is_bare or (args and args[0].startswith("-") and args[0] not in own):
            args = ["chat", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was probably meant."""
        if args[0] not in VERBS:
            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "see: edgeagent --help"
            ctx.fail(f"no verb {args[0]!r}; {hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of verbs."""
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete verbs from the table."""
        return [
            CompletionItem(verb, help=text)
            for verb, text in VERBS.items()
            if verb.startswith(incomplete)
        ]


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib import metadata  # 30 ms, and only this option needs it

    try:
        version = metadata.version("edgeagent")
    except metadata.PackageNotFoundError:
        version = "(a checkout that is not installed)"
    click.echo(f"edgeagent {version}")
    ctx.exit()


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-v", "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
def cli() -> None:
    """A tool-calling agent that lives on your own machine."""
    try:
        _install_log()
    except (OSError, EdgeAgentError) as exc:
        click.echo(f"edgeagent: there will be no log: {exc}", err=True)


def main() -> None:
    """Run the command line and exit with its code."""
    log.addHandler(logging.NullHandler())  # else the last resort prints tracebacks
    sys.excepthook = _log_crash
    for stream in (sys.stdout, sys.stderr):
        _never_refuse(stream)
    sys.exit(_run())


def _run() -> int:
    try:
        result = cli(prog_name="edgeagent", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except EdgeAgentError as exc:
        log.error("ended by %s", type(exc).__name__, exc_info=exc)
        click.echo(f"edgeagent: {exc}", err=True)
        return exc.exit_code
    except BrokenPipeError:
        # The reader has gone (`| head`); keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return result if isinstance(result, int) else 0


def _install_log() -> None:
    file = paths.state_dir() / LOG_NAME
    os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    package = logging.getLogger("edgeagent")
    package.setLevel(logging.INFO)
    package.addHandler(handler)
    package.propagate = False


def _log_crash(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
    log.critical("crashed", exc_info=(kind, exc, trace))
    message = " ".join(str(exc).split())
    click.echo(f"edgeagent: internal error: {kind.__name__}: {message}", err=True)
    click.echo("edgeagent: `edgeagent config path` names the log, which has more", err=True)


def _never_refuse(stream: Any) -> None:
    """Print what the terminal's encoding lacks as `?` rather than fail halfway."""
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")


if __name__ == "__main__":
    main()
