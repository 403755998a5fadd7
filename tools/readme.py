"""Make README.md from nbs/index.ipynb: the text, the code a reader sees, and what it printed.

usage: python tools/readme.py

Hidden cells stay out. Links and images are rewritten from the notebook's folder to the root of the
repository; each must lead to a file that exists. An image that a cell plots is refused: the index
shows committed figures by `![...](../figures/name.png)`.
"""

import os, posixpath, re, sys
from pathlib import Path
from urllib.parse import unquote

import nbformat

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"
_HEADER = "<!-- Made from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->\n"
_DIRECTIVE = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
_HIDDEN = {"hide", "export", "exporti", "exports", "default_exp", "hide_line"}
_LINK = re.compile(
    r"(!?\[[^\]]*\]\(\s*<?|<(?:img|source|a)\b[^>]*?\b(?:src|href)=[\"'])([^)\s\"'>]+)"
)
_CODE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)


class ReadmeError(Exception):
    "The index holds something that a README cannot show."


def _directives(source: str) -> tuple[dict[str, str], str]:
    "A code cell's leading `#|` lines as a dict, and the source without them."
    found, lines = {}, source.splitlines()
    while lines and (m := _DIRECTIVE.match(lines[0])):
        found[m[1]] = m[2]
        lines.pop(0)
    return found, "\n".join(lines).strip("\n")


def _relink(text: str, root: Path, problems: list[str]) -> str:
    "Links that are relative to nbs/ made relative to the root; code is left alone."

    def one(m):
        target, hash_, anchor = m[2].partition("#")
        if not target or re.match(r"[a-z][a-z0-9+.-]*:", target):
            return m[0]
        goal = posixpath.normpath(posixpath.join("nbs", target))
        if goal.startswith("..") or not (root / unquote(goal)).exists():
            problems.append(f"link to {m[2]}: no {goal} in the repository")
        return m[1] + goal + hash_ + anchor

    parts = _CODE.split(text)
    return "".join(p if i % 2 else _LINK.sub(one, p) for i, p in enumerate(parts))


def _output(output, where: str, problems: list[str]) -> tuple[str, str]:
    "An output as (kind, text): kind is text, markdown or nothing."
    if output.output_type == "stream":
        return ("text", output.text) if output.name == "stdout" else ("", "")
    if output.output_type == "error":
        problems.append(f"{where}: its output is an error ({output.ename})")
        return "", ""
    if any(mime.startswith("image/") for mime in output.data):
        problems.append(
            f"{where}: it plots an image; save it to figures/, show it by ![](../figures/x.png)"
        )
        return "", ""
    if "text/markdown" in output.data:
        return "markdown", output.data["text/markdown"]
    return "text", output.data.get("text/plain", "")


def _code_cell(cell, where: str, problems: list[str]) -> list[str]:
    "A visible code cell: its source, then its outputs."
    directives, source = _directives(cell.source)
    if _HIDDEN & directives.keys():
        return []
    blocks = [f"```python\n{source}\n```"] if source and directives.get("echo") != "false" else []
    if directives.get("output") == "false":
        return blocks
    plain = ""
    for kind, text in [_output(o, where, problems) for o in cell.outputs] + [("markdown", "")]:
        if kind == "text":
            plain += text if text.endswith("\n") else text + "\n"
        elif kind == "markdown":
            if plain.strip():
                blocks.append(f"```text\n{plain.rstrip()}\n```")
            if text.strip():
                blocks.append(text.strip())
            plain = ""
    return blocks


def readme(
    index: Path = INDEX,  # the notebook
    root: Path = ROOT,  # the repository that its links lead into
) -> str:  # the README
    "The README's text. Raises `ReadmeError` listing everything that cannot be shown."
    problems, blocks = [], []
    for i, cell in enumerate(nbformat.read(index, as_version=4).cells):
        if cell.get("attachments"):
            problems.append(f"cell {i}: a pasted attachment; save it to figures/")
        if cell.cell_type == "markdown":
            new = [cell.source.strip()]
        else:
            new = _code_cell(cell, f"cell {i}", problems) if cell.cell_type == "code" else []
        blocks += [_relink(b, root, problems) for b in new if b]
    if problems:
        raise ReadmeError(
            f"{index.name}: {len(problems)} problem(s)\n" + "\n".join(f"  - {p}" for p in problems)
        )
    return _HEADER + "\n" + "\n\n".join(blocks) + "\n"


if __name__ == "__main__":
    if not INDEX.is_file():
        sys.exit("nbs/index.ipynb is missing: there is nothing to make README.md from")
    try:
        text = readme()
    except ReadmeError as e:
        sys.exit(str(e))
    draft = ROOT / ".README.md.tmp"
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, ROOT / "README.md")
    print(f"README.md: {len(text.splitlines())} lines")
