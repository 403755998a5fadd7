"""Pages about the modules, made from their docments; and which parameters have none.

usage: python tools/api.py [MODULE...]      e.g. loss align; default: all

Prints, module by module, how many public parameters have a docment, and the names of those that
have none. `make docs` makes a page of each module by `page`. Modules are read, never imported.
"""

import argparse
import ast
import configparser
import json
import re
import sys
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout is what is documented, whatever else is installed

from cpo_nb.docments import Definition, Parameter, definitions  # noqa: E402

LIB = ROOT / "cpo_nb"
NBS = ROOT / "nbs"
_CODE = re.compile(r"(`[^`\n]+`)")


@cache
def settings() -> configparser.SectionProxy:
    "What settings.ini says."
    parser = configparser.ConfigParser(delimiters=["="], interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser["DEFAULT"]


@cache
def notebook_of() -> dict[str, str]:
    "Module name -> stem of the notebook that exports it, in reading order."
    found = {}
    for path in sorted(NBS.glob("[!_]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            match = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", "".join(cell["source"]), re.M)
            if cell["cell_type"] == "code" and match:
                found[match[1]] = path.stem
    return found


def modules() -> list[Path]:
    "Modules of the package, in the reading order of their notebooks."
    order = list(notebook_of())
    found = [p for p in LIB.glob("*.py") if not p.name.startswith("_")]
    return sorted(
        found, key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.stem)
    )


def exported(
    path: Path,  # a module
) -> list[str]:  # names in its `__all__`
    "What `from module import *` brings."
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def public(
    path: Path,  # a module
) -> list[
    Definition
]:  # exported names, methods of exported classes, and methods patched into others
    "What a page about the module shows, in the order of the source."
    found = definitions(path.read_text(encoding="utf-8"))
    names, here = set(exported(path)), {d.name for d in found}

    def is_shown(d: Definition) -> bool:
        owner = d.name.partition(".")[0]
        return owner in names or ("." in d.name and owner not in here)

    return [d for d in found if is_shown(d)]


def undocumented(
    path: Path,  # a module
) -> list[str]:  # "function.parameter", "Class.field" or "Class.method.parameter"
    "Public parameters without a docment. Commands are left out: their options carry a help text."
    shown = [d for d in public(path) if d.kind != "constant" and not d.is_command]
    return [
        f"{d.name}.{p.name}" for d in shown for p in d.parameters + d.attributes if not p.comment
    ]


def count(
    path: Path,  # a module
) -> int:  # parameters that `undocumented` looks at
    "How many public parameters a module has."
    shown = [d for d in public(path) if d.kind != "constant" and not d.is_command]
    return sum(len(d.parameters) + len(d.attributes) for d in shown)


def _named(node: ast.AST) -> str:
    "The name that a statement gives to something."
    target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", node)
    return getattr(target, "name", getattr(target, "id", ""))


def source_of(
    name: str,  # "module.name" or "module.Class.method"
) -> str:  # its lines, decorators and comments included
    "The source of a definition. Raises `KeyError` where there is none."
    module, *parts = name.removeprefix("cpo_nb.").split(".")
    path = LIB / f"{module}.py"
    if not path.is_file():
        raise KeyError(f"{name}: there is no module {module}")
    text = path.read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in parts:
        found = [n for n in getattr(node, "body", []) if _named(n) == part]
        if not found:
            raise KeyError(f"{name}: {module} has no {part}")
        node = found[0]
    first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


# ---- pages


def _escaped(text: str, what: str) -> str:
    "Text with the characters of `what` escaped outside code, so that Markdown shows them."
    parts = _CODE.split(text)
    return "".join(
        p if i % 2 else re.sub(f"([{re.escape(what)}])", r"\\\1", p) for i, p in enumerate(parts)
    )


def _code(text: str) -> str:
    "A code span in a table's cell; nothing for nothing."
    return f"`{text}`".replace("|", "\\|") if text else ""


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split()), "*<$").replace("|", "\\|")


def _table(title: str, parameters: tuple[Parameter, ...]) -> list[str]:
    "Parameters as a table; nothing where there are none."
    if not parameters:
        return []
    rows = [f"| {title} | type | default | meaning |", "|:--|:--|:--|:--|"]
    for p in parameters:
        shown = _code(p.name), _code(p.annotation), _code(p.default), _cell(p.comment)
        rows.append(f"| {' | '.join(shown)} |")
    return ["\n".join(rows)]


def _returned(d: Definition) -> list[str]:
    if not d.returns.comment and (not d.returns.annotation or d.returns.annotation == "None"):
        return []
    kind = f"`{d.returns.annotation}`" if d.returns.annotation else ""
    told = _escaped(d.returns.comment, "*<$")
    return [f"**Returns** {': '.join(part for part in (kind, told) if part)}"]


def _signature(d: Definition) -> str:
    "Names, with dots for what has a default; the table tells types and defaults."
    if d.kind in ("property", "constant"):
        return d.name
    return f"{d.name}({', '.join(p.name + '=...' * bool(p.default) for p in d.parameters)})"


def _directive(d: Definition, module: str, inside: str = "") -> str:
    "A definition as a directive of Sphinx's Python domain, with what stands inside it."
    fence = "`" * (6 if "." in d.name else 8)
    kind = dict(constant="data", property="property").get(d.kind, d.kind)
    name = _signature(d).partition(".")[2] if "." in d.name and inside is None else _signature(d)
    lines = [f"{fence}{{py:{kind}}} {name}", f":module: cpo_nb.{module}"]
    if d.kind == "property" and d.returns.annotation:
        lines.append(f":type: {d.returns.annotation}")
    blocks = ["\n".join(lines)]
    if d.kind == "constant":
        value = d.parameters[0]
        shown = value.default if len(value.default) <= 200 else value.default[:200] + " ..."
        blocks += [_escaped(value.comment, "*<$")] * bool(value.comment)
        blocks.append(f"```python\n{value.name} = {shown}\n```")
    else:
        blocks += [_escaped(d.docstring, "<$")] * bool(d.docstring)
        blocks += _table("parameter", d.parameters) + _table("attribute", d.attributes)
        blocks += _returned(d) if d.kind != "property" or d.returns.comment else []
    return "\n\n".join([*blocks, *([inside] if inside else []), fence])


def page(
    path: Path,  # a module
) -> str:  # Markdown for MyST
    "A page about a module: every public definition with its parameters."
    module, shown = path.stem, public(path)
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    notebook = notebook_of().get(module)
    blocks = [f"# cpo_nb.{module}", _escaped(docstring, "<$")]
    if notebook:
        blocks.append(f"Explained, with examples, in [{notebook}](../nbs/{notebook}.ipynb).")
    blocks.append(f"```{{py:module}} cpo_nb.{module}\n```")
    here = {d.name for d in shown if d.kind == "class"}
    for d in shown:
        owner, _, last = d.name.rpartition(".")
        if owner in here:
            continue  # stands inside its class
        methods = [m for m in shown if d.kind == "class" and m.name.startswith(f"{d.name}.")]
        blocks.append(
            _directive(d, module, "\n\n".join(_directive(m, module, None) for m in methods))
        )
    return "\n\n".join(b for b in blocks if b) + "\n"


def sentence(
    path: Path,  # a module
) -> str:
    "The first line of a module's docstring."
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def index() -> str:
    "The page that lists the modules."
    rows = ["| module | what is in it |", "|:--|:--|"]
    rows += [f"| [{p.stem}]({p.stem}.md) | {_cell(sentence(p))} |" for p in modules()]
    toc = "\n".join(p.stem for p in modules())
    return (
        "# Modules\n\nEvery public name of the package, with its parameters. Modules stand in the "
        "order of their notebooks, names in the order of the source.\n\n"
        + "\n".join(rows)
        + f"\n\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    )


def pages() -> dict[str, str]:
    "All pages: name without suffix -> Markdown."
    return {"index": index()} | {p.stem: page(p) for p in modules()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="MODULE", help="modules, e.g. loss (default: all)"
    )
    names = parser.parse_args().names
    shown = [p for p in modules() if not names or p.stem in names]
    for path in shown:
        total, missing = count(path), undocumented(path)
        print(f"{path.stem}: {total - len(missing)} of {total} parameters have a docment")
        if names:
            print(*(f"  {name}" for name in missing), sep="\n")
    total, missing = sum(map(count, shown)), sum(len(undocumented(p)) for p in shown)
    print(f"together: {total - missing} of {total}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
