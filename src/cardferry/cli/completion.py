"""``cardferry completion``: what makes a shell complete our commands, options, hosts and readers.

The scripts are click's, who asks us at each press of the key; bash's is ours, because names of readers have blanks.
"""

from __future__ import annotations

from typing import ClassVar, Final

import click
from click import shell_completion

from cardferry.cli.say import say

#: See click's `shell_completion`: it runs the command with this variable to ask what is possible.
_VARIABLE: Final = "_CARDFERRY_COMPLETE"
#: In a word that began with a quote, readline wants what is in it as it is; elsewhere as the shell would read it.
_BASH: Final = """\
%(complete_func)s() {
    local IFS=$'\\n' line kind value current=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    while IFS= read -r line; do
        kind=${line%%%%,*}
        value=${line#*,}
        case $kind in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                case $current in
                    [\\"\\']*) COMPREPLY+=("$value") ;;
                    *) COMPREPLY+=("$(printf %%q "$value")") ;;
                esac
                ;;
        esac
    done < <(COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD %(complete_var)s=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(shell_completion.BashComplete):
    """Bash from 4.4 on, with names that have blanks."""

    source_template: ClassVar[str] = _BASH

    def source(self) -> str:
        """The script; bash need not be here."""
        return shell_completion.ShellComplete.source(self)


shell_completion.add_completion_class(_Bash)
SHELLS: Final = {
    "bash": _Bash,
    "zsh": shell_completion.ZshComplete,
    "fish": shell_completion.FishComplete,
}


def script(shell: str, program: click.Command) -> str:
    """What a shell must read."""
    return SHELLS[shell](program, {}, "cardferry", _VARIABLE).source()


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options, hosts of ~/.ssh/config and readers.

    bash: put  source <(cardferry completion bash)  into ~/.bashrc

    zsh: put  source <(cardferry completion zsh)  into ~/.zshrc, after compinit

    fish: cardferry completion fish > ~/.config/fish/completions/cardferry.fish
    """
    for line in script(shell, context.find_root().command).splitlines():
        say(line)
