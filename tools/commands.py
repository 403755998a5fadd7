"""Pages about the command line, made from the help of every command.

usage: python tools/commands.py      prints the names of the commands

`make docs` makes a page of each command by `pages`. Unlike `api.py` this imports the package: the
help texts hold values that are known only then.
"""

import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout is what is documented, whatever else is installed

_CODE = re.compile(r"(`[^`\n]+`)")


def _command():
    "The `cpo` command, with its sub-commands."
    import typer

    from cpo_nb.cli import app

    return typer.main.get_command(app)


def _escaped(text: str) -> str:
    "Text that Markdown shows as it is, code spans aside."
    parts = _CODE.split(text)
    return "".join(p if i % 2 else re.sub(r"([*_<$\[\]])", r"\\\1", p) for i, p in enumerate(parts))


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _paragraphs(text: str) -> list[str]:
    "A help text as Markdown: what click would not wrap becomes a block of code."
    blocks = []
    for part in re.split(r"\n\s*\n", inspect.cleandoc(text).partition("\f")[0]):
        if part.startswith("\b"):
            lines = part.lstrip("\b\n").splitlines()
            title = lines[0].rstrip(":") if lines and not lines[0].startswith(" ") else ""
            plain = title in ("Example", "Examples")
            blocks += [f"{title}:"] * plain
            body = inspect.cleandoc("\n".join(["", *lines[plain:]]))
            blocks.append(f"```bash\n{body}\n```" if plain else f"```text\n{body}\n```")
        elif part.strip():
            blocks.append(_escaped(" ".join(part.split())))
    return blocks


def _options(command, context) -> list[str]:
    "Arguments and options as a table."
    shown = [p for p in command.get_params(context) if p.name != "help" or not context.parent]
    records = [(p.param_type_name, p.get_help_record(context)) for p in shown]
    blocks = []
    for kind in ("argument", "option"):
        told = [(re.sub(r" <[^>]*>$", "", r[0]), r[1]) for k, r in records if r and k == kind]
        names = [name.replace("|", "\\|") for name, _ in told]  # "base|better|worse"
        rows = [f"| `{name}` | {_cell(said)} |" for name, (_, said) in zip(names, told)]
        if rows:
            table = [f"| {kind} | meaning |", "|:--|:--|", *rows]
            blocks.append("\n".join(["```{container} options", "", *table, "```"]))
    return blocks


def _usage(command, context) -> str:
    pieces = " ".join(command.collect_usage_pieces(context))
    return f"```bash\n{context.command_path} {pieces}\n```"


def _walk(command, name: str, parent=None):
    "A command and everything below it, as (path of names, command, context)."
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield tuple(context.command_path.split()), command, context
    for sub in getattr(command, "commands", {}):
        if not command.commands[sub].hidden:
            yield from _walk(command.commands[sub], sub, context)


def commands() -> list[tuple]:
    "Every command as (path of names, command, context), in the order of the help."
    return list(_walk(_command(), "cpo"))


def _described(path: tuple, command, context, level: int) -> list[str]:
    "One command: its name as a heading, usage, help text, options."
    title = f"{'#' * level} {' '.join(path)}"
    blocks = [title, _usage(command, context), *_paragraphs(command.help or "")]
    blocks += _options(command, context)
    return blocks + _paragraphs(command.epilog or "")


def pages() -> dict[str, str]:
    "All pages: name without suffix -> Markdown. Commands of a group share a page."
    found = commands()
    top, *rest = found
    names = list(dict.fromkeys(path[1] for path, *_ in rest))
    made = {
        name: "\n\n".join(
            block
            for path, *known in rest
            if path[1] == name
            for block in _described(path, *known, level=len(path) - 1)
        )
        + "\n"
        for name in names
    }
    rows = ["| command | does |", "|:--|:--|"]
    for path, command, _ in rest:
        if not getattr(command, "commands", {}):
            said = _cell(inspect.cleandoc(command.help or "").partition("\n\n")[0])
            anchor = f"#{'-'.join(path)}" if len(path) > 2 else ""
            rows.append(f"| [`{' '.join(path)}`]({path[1]}.md{anchor}) | {said} |")
    toc = "\n".join(names)
    blocks = ["# The command line", *_described(*top, level=1)[1:], "## Commands", "\n".join(rows)]
    made["index"] = "\n\n".join(blocks) + f"\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    return made


if __name__ == "__main__":
    print("\n".join(" ".join(path) for path, *_ in commands()))
