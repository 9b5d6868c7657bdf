"""`edgeagent completion`: the script that lets a shell complete verbs and options.

eval "$(edgeagent completion bash)"
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Put one of these where the shell reads it at its start:

    \b
      bash:  eval "$(edgeagent completion bash)"
      zsh:   eval "$(edgeagent completion zsh)"
      fish:  edgeagent completion fish | source
    """
    completion = get_completion_class(shell)
    assert completion is not None, "click knows the three shells of the choice"
    root = ctx.find_root().command
    # Only the template is wanted: `source()` also runs bash to see whether it is too old.
    script = completion(root, {}, "edgeagent", "_EDGEAGENT_COMPLETE")
    click.echo(script.source_template % script.source_vars())
