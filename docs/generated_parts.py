"""What the reference pages of the site are filled with: commands as defined, settings as the configs have them."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo, ParameterInfo

from pathotune.cli import app
from pathotune.methods import METHODS, config_class
from pathotune.methods.options import Option, options_of

PLACE = "<!-- {name}: filled in when the site is built -->"


def commands() -> Iterator[tuple[str, CommandInfo]]:
    """Every command as it is typed, in the order of the help, with its definition."""

    def of(program: typer.Typer, before: str) -> Iterator[tuple[str, CommandInfo]]:
        for command in program.registered_commands:
            assert command.callback is not None
            yield f"{before} {command.name or command.callback.__name__.replace('_', '-')}", command
        for group in program.registered_groups:
            assert group.typer_instance is not None
            yield from of(group.typer_instance, f"{before} {group.name or group.typer_instance.info.name}")

    yield from of(app, "pathotune")


def commands_text() -> str:
    """One section a command: what it does, its example, its arguments and options."""
    return "\n\n".join(_command_text(name, command) for name, command in commands())


def _command_text(name: str, command: CommandInfo) -> str:
    callback = command.callback
    lines = [f"## {name}", "", inspect.getdoc(callback) or "", ""]
    if command.epilog:
        lines += ["```text", *(line for line in command.epilog.strip().splitlines() if line.strip()), "```", ""]
    lines += ["| argument or option | default | what it does |", "| --- | --- | --- |"]
    lines += [_row(parameter, info) for parameter, info in _parameters(callback)]
    return "\n".join(lines)


def _parameters(callback: Any) -> list[tuple[inspect.Parameter, ParameterInfo]]:
    """Arguments first, then options, each with what typer is told of it."""
    hints = get_type_hints(callback, include_extras=True)
    found = []
    for name, parameter in inspect.signature(callback).parameters.items():
        facts = get_args(hints[name])[1:] if get_origin(hints[name]) is Annotated else ()
        found += [(parameter, fact) for fact in facts if isinstance(fact, ParameterInfo)]
    return sorted(found, key=lambda pair: isinstance(pair[1], OptionInfo))


def _row(parameter: inspect.Parameter, info: ParameterInfo) -> str:
    written = parameter.name.replace("_", "-")
    if isinstance(info, ArgumentInfo):
        names = f"`{(info.metavar or written.upper()).strip('[]')}`"
    else:
        # Inside Annotated, typer takes the first name where a default would stand.
        first = (info.default,) if isinstance(info.default, str) else ()
        names = ", ".join(f"`{name}`" for name in (*first, *(info.param_decls or ())) or (f"--{written}",))
    default = parameter.default
    if default is inspect.Parameter.empty:
        shown = "must be given"
    elif default is None or default is False or default == ():
        shown = ""
    else:
        shown = f"`{'on' if default is True else default}`"
    return f"| {names} | {shown} | {_cell(info.help or '')} |"


def settings_text() -> str:
    """One section a method: what `--set` takes, which is also what the window's form shows."""
    return "\n\n".join(_settings_of(entry.name) for entry in METHODS.entries())


def _settings_of(name: str) -> str:
    entry = METHODS[name]
    facts = dict(entry.facts or {})
    lines = [f"## {name}", "", str(facts.get("summary", entry.title)), ""]
    options = options_of(config_class(name))
    if not options:
        return "\n".join([*lines, "No settings."])
    lines += ["| setting | default | what it does |", "| --- | --- | --- |"]
    lines += [f"| `{option.name}` | {_default(option)} | {_cell(_explained(option))} |" for option in options.values()]
    return "\n".join(lines)


def _default(option: Option) -> str:
    value = {True: "on", False: "off"}.get(option.default, option.default) if option.kind is bool else option.default
    return f"`{value}`" if value not in ("", None) else ""


def _explained(option: Option) -> str:
    reach = ""
    if option.choices:
        reach = f" One of {', '.join(f'`{choice}`' for choice in option.choices)}."
    elif option.minimum is not None and option.maximum is not None:
        reach = f" From {option.minimum:g} to {option.maximum:g}."
    return (option.tooltip or "").strip() + reach


def _cell(text: str) -> str:
    """Text that stays in one cell of a table and is no markup."""
    plain = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
    return re.sub(r"(?<![`\w-])--[a-z][a-z-]*", r"`\g<0>`", plain)


def errors_text() -> str:
    """Every error with the exit code that the command line gives it."""
    module = importlib.import_module("pathotune.errors")
    lines = ["| error | exit code | what it is |", "| --- | --- | --- |"]
    for name, kind in vars(module).items():
        if inspect.isclass(kind) and issubclass(kind, module.PathotuneError):
            lines.append(f"| `{name}` | {kind.exit_code} | {_cell((kind.__doc__ or '').strip().splitlines()[0])} |")
    return "\n".join(lines)


def reached(index: str, folder: Path) -> str:
    """The index page and the contents behind it, section by section as it links them; what it does not link follows."""
    left = {path.stem for path in folder.glob("*.md")} - {"index"}
    contents = []
    for section in index.split("\n## ")[1:]:
        pages = re.findall(r"^\* \[[^\]]+\]\(([^)#]+)\.(?:md|ipynb)\)", section, flags=re.MULTILINE)
        contents.append((section.partition("\n")[0], pages))
        left -= set(pages)
    contents.append(("Further", sorted(left)))
    trees = [
        "\n".join(["```{toctree}", f":caption: {name}", ":hidden:", "", *pages, "```"])
        for name, pages in contents
        if pages
    ]
    return "\n\n".join([index, *trees])


FILLED = {"commands": commands_text, "settings": settings_text, "errors": errors_text}


def fill(text: str) -> str:
    """The page with the parts in their places."""
    for name, made in FILLED.items():
        place = PLACE.format(name=name)
        if place in text:
            text = text.replace(place, made())
    return text
