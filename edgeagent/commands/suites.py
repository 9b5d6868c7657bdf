"""A verb that names a benchmark: a table of suites, each imported when it is asked for."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click


class Suites(click.Group):
    """Lists its suites without importing them; `<verb>_<suite>` holds each as `command`."""

    def __init__(self, name: str, table: Mapping[str, str], **settings: Any) -> None:
        super().__init__(name, **settings)
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the suites in the order of the table."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the suite's module and return its command; None for an unknown suite."""
        if cmd_name not in self.table:
            return None
        module = f"edgeagent.commands.{self.name}_{cmd_name.replace('-', '_')}"
        command: click.Command = importlib.import_module(module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the suite, or say which one was probably meant."""
        if args[0] not in self.table:
            close = difflib.get_close_matches(args[0], self.table, n=1)
            known = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(self.table)}"
            ctx.fail(f"no suite {args[0]!r}; {known}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of suites."""
        with formatter.section("Suites"):
            formatter.write_dl(list(self.table.items()))
