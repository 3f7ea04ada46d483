"""The reference of all commands: Markdown, made from what their `--help` says."""

from collections.abc import Iterator
from typing import Any

import typer

from pytorch_dl.cli import app

PROGRAM = "pytorch-dl"
HIDDEN = {"help", "install_completion", "show_completion"}


def commands() -> list[str]:
    """Each command with its usage, arguments and options."""
    lines = []
    for name, command in found():
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option" and param.name not in HIDDEN]
        words = [f"{PROGRAM} {name}", *(_argument(param) for param in arguments), *(["[options]"] if options else [])]
        lines += [f"## {name}", "", *_paragraphs(command.help), "", "```text", " ".join(words), "```", ""]
        if arguments or options:
            lines += ["| | | when left out |", "|---|---|---|"]
            lines += [_row(_argument(param), param) for param in arguments]
            lines += [_row(_option(param), param) for param in options]
            lines += [""]
    return lines


def found() -> Iterator[tuple[str, Any]]:
    """The name of each command, without the program's, and what typer knows of it."""
    todo = [("", typer.main.get_command(app))]
    while todo:
        name, command = todo.pop(0)
        if hasattr(command, "commands"):
            todo += [(f"{name} {key}".strip(), inner) for key, inner in command.commands.items()]
        else:
            yield name, command


def _paragraphs(text: str | None) -> list[str]:
    return [line.strip() for line in (text or "").splitlines()]


def _argument(param: Any) -> str:
    name = str(param.metavar or param.name.upper())
    return name if param.required or name.startswith("[") else f"[{name}]"


def _option(param: Any) -> str:
    names = ", ".join([*sorted(param.opts, key=len), *param.secondary_opts])
    if param.is_flag:
        return names
    return f"{names} {param.metavar or param.name.upper()}"


def _row(words: str, param: Any) -> str:
    shown = param.default if isinstance(param.default, str | int | float) else None
    default = "needed" if param.required else f"`{shown}`" if shown and not param.is_flag else ""
    return (
        f"| `{words}` | {(param.help or '').replace('|', chr(92) + '|')} | {default} |"  # in code a bar needs no escape
    )
