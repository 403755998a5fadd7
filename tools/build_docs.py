"""Build the site into `_docs/html` and check it: no warning, no dead link, nothing from elsewhere.

usage: python tools/build_docs.py [--out FOLDER] [--fresh]

The pages are staged in FOLDER/source first, in the layout of the repository: notebooks with their
stored outputs, the pages of docs/, and pages made from the modules and from the command line.
Nothing is executed, and nothing is fetched.
"""

import argparse
import ast
import gzip
import json
import os
import posixpath
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

import api
import commands
from readme import readme

ROOT = api.ROOT
NBS = ROOT / "nbs"
OUT = ROOT / "_docs"
DECADES = ["Ground and data", "Models", "Method", "Evaluation", "Running", "Figures", "Guides"]
PAGES = ["logged", "extending", "fidelity"]  # of docs/, in the order of the menu
ABOUT = ["CONTRIBUTING", "CHANGELOG"]  # of the root
_DIRECTIVE = re.compile(r"^#\s*\|\s*([\w-]+)\s*:?\s*(.*?)\s*$")
_HIDDEN = {"hide", "default_exp"}
_LINK = re.compile(r"(\]\(\s*<?|<(?:img|source|a)\b[^>]*?\b(?:src|href)=[\"'])([^)\s\"'>]+)")
_FENCED = re.compile(r"(^(`{3,}).*?^\2`*[^\n]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
_PATH = re.compile(r"(?<![\w.~/:-])/(?:root|home|work|tmp|Users)/[A-Za-z][^\s'\"<>)\\]*")


# ---- staging


def notebooks() -> list[Path]:
    "Notebooks that get a page: all but the index, which is the front page, and drafts."
    return [p for p in sorted(NBS.glob("[!_]*.ipynb")) if p.stem != "index"]


def _documents() -> dict[str, str]:
    "Files of the repository that have a page -> that page."
    found = {f"nbs/{p.name}": f"nbs/{p.name}" for p in notebooks()}
    found |= {f"docs/{p.name}": f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")}
    found |= {f"{name}.md": f"{name}.md" for name in ABOUT if (ROOT / f"{name}.md").is_file()}
    return found | {"README.md": "index.md", "nbs/index.ipynb": "index.md"}


def _slug(anchor: str) -> str:
    "An anchor as JupyterLab writes it, in the form that the site has."
    return re.sub(r"[^\w-]", "", unquote(anchor).lower().replace(" ", "-"))


def relinked(
    text: str,  # Markdown
    folder: str,  # of the repository, where it stands: "", "nbs" or "docs"
    known: dict[str, str],  # files that have a page -> that page
) -> str:
    "Links to files without a page lead to the repository on the web; code is left alone."
    settings = api.settings()

    def one(match):
        target, hash_, anchor = match[2].partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", match[2]) or target.startswith("/"):
            return match[0]
        if not target:
            return f"{match[1]}#{_slug(anchor)}"
        goal = posixpath.normpath(posixpath.join(folder, unquote(target)))
        if goal in known:
            tail = f"#{_slug(anchor)}" if anchor else ""
            return match[1] + posixpath.relpath(known[goal], folder or ".") + tail
        if goal.startswith("figures/") or not (ROOT / goal).exists():
            return match[0]  # a figure is staged; what does not exist becomes a warning
        kind = "tree" if (ROOT / goal).is_dir() else "blob"
        return f"{match[1]}{settings['git_url']}/{kind}/{settings['branch']}/{goal}{hash_}{anchor}"

    parts, pieces, last = [], _FENCED.finditer(text), 0
    for piece in pieces:
        parts += [_LINK.sub(one, text[last : piece.start()]), piece[0]]
        last = piece.end()
    return "".join([*parts, _LINK.sub(one, text[last:])])


def _is_imports(source: str) -> bool:
    "Whether a cell does nothing but import."
    try:
        found = ast.parse(source).body
    except SyntaxError:  # of IPython
        return False
    return bool(found) and all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in found)


def _staged_cell(cell: dict, known: dict[str, str]) -> dict | None:
    "A cell as the site shows it, imports folded; None for a hidden one."
    source = "".join(cell["source"])
    if cell["cell_type"] != "code":
        return dict(cell, source=relinked(source, "nbs", known))
    found, lines = {}, source.splitlines()
    while lines and (match := _DIRECTIVE.match(lines[0])):
        found[match[1]] = match[2]
        lines.pop(0)
    source = "\n".join(lines).strip("\n")
    if _HIDDEN & found.keys() or not source:
        return None
    imports = _is_imports(source)
    tags = ["remove-input"] * (found.get("echo") == "false")
    tags += ["hide-input"] * (found.get("code-fold") == "true" or imports)
    prompt = dict(mystnb=dict(code_prompt_show="Imports")) if imports else {}
    kept = [] if found.get("output") == "false" else cell["outputs"]
    metadata = cell["metadata"] | dict(tags=tags) | prompt
    return dict(cell, source=source, outputs=kept, metadata=metadata)


def staged_notebook(
    path: Path,  # a notebook
    known: dict[str, str],  # files that have a page
) -> str:  # JSON
    "A notebook without hidden cells and directives, with its stored outputs."
    nb = json.loads(path.read_text(encoding="utf-8"))
    nb["cells"] = [c for cell in nb["cells"] if (c := _staged_cell(cell, known))]
    module = next((m for m, stem in api.notebook_of().items() if stem == path.stem), None)
    first = next((c for c in nb["cells"] if c["cell_type"] == "markdown"), None)
    if module and first:
        head, gap, rest = first["source"].strip().partition("\n\n> ")
        sentence, *more = rest.split("\n\n", 1)
        link = f"Module: [cpo_nb.{module}](../api/{module}.md)"
        parts = [f"{head}{gap}{sentence}", link, *more] if gap else [head, link]
        first["source"] = "\n\n".join(parts)
    nb["metadata"].setdefault("language_info", dict(name="python", pygments_lexer="ipython3"))
    return json.dumps(nb, ensure_ascii=False)


def told(
    path: Path,  # a notebook
) -> tuple[str, str]:  # title, sentence
    "What a notebook says of itself in its first cell."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(next(c["source"] for c in cells if c["cell_type"] == "markdown"))
    match = re.match(r"# (.+?)\n+> (.+?)(?:\n\n|$)", first, re.DOTALL)
    return (match[1].strip(), " ".join(match[2].split())) if match else (path.stem, "")


def _decade(path: Path) -> int:
    match = re.match(r"(\d+)", path.stem)
    return min(int(match[1]) // 10, len(DECADES) - 1) if match else len(DECADES) - 1


# ---- numbers of stored runs

_CURVES = re.compile(r"^<!-- curves: ([\w -]+) -->$", re.MULTILINE)
_SOURCE = re.compile(r"^<!-- source: ([\w.]+) -->$", re.MULTILINE)
_SHOWN = ["loss", "margin", "accuracy", "d_w", "d_l", "d_w / variance", "lam", "cosine"]


def _stored(row: str) -> dict[str, list]:
    "The log of the newest stored run of a row of the grid main, with what is derived from it."
    paths = (ROOT / "data" / "results" / "ledger").glob(f"*/{row}-seed0-*.json.gz")
    results = [json.loads(gzip.decompress(path.read_bytes())) for path in paths]
    results = [result for result in results if result["grid"] == "main"]
    if not results:
        raise SystemExit(f"docs: no stored run of the row {row!r} in data/results/ledger")
    found = max(results, key=lambda result: result["time"])
    curves = found["curves"]
    shares = [w / v for w, v in zip(curves["d_w"], curves["variance"], strict=True)]
    return curves | {"label": found["label"], "d_w / variance": shares}


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def curves_table(
    rows: list[str],  # rows of grids
) -> str:  # Markdown
    "What stored runs logged at their first step, and on average over ten steps later on."
    heads, columns = ["column"], []
    for row in rows:
        log = _stored(row)
        last = len(log["step"]) - 1
        for at, when in ((0, "step 1"), (last // 2, "middle"), (last, "end")):
            lo, hi = (0, 1) if at == 0 else (max(0, at - 9), at + 1)
            heads.append(f"{log['label']}, {when}")
            columns.append([_number(sum(log[k][lo:hi]) / (hi - lo)) for k in _SHOWN])
    lines = [f"| {' | '.join(heads)} |", "|:--" + "|--:" * len(columns) + "|"]
    lines += [f"| `{k}` | {' | '.join(c[i] for c in columns)} |" for i, k in enumerate(_SHOWN)]
    return "\n".join(lines)


def filled(
    text: str,  # Markdown
) -> str:
    "Numbers of stored runs and sources of definitions in the places that ask for them."
    text = _CURVES.sub(lambda m: curves_table(m[1].split()), text)
    return _SOURCE.sub(lambda m: f"```python\n{api.source_of(m[1])}\n```", text)


# ---- pages


def decade_pages(known: dict[str, str]) -> dict[str, str]:
    "A page of each decade that has notebooks: its file -> Markdown."
    made = {}
    for number, title in enumerate(DECADES):
        found = [p for p in notebooks() if _decade(p) == number]
        if not found:
            continue
        rows, toc = ["| notebook | what is in it |", "|:--|:--|"], []
        for path in found:
            name, sentence = told(path)
            sentence = relinked(sentence, "nbs", known).replace("|", "\\|")
            rows.append(f"| [{path.stem}](../nbs/{path.name}) | **{name}.** {sentence} |")
            plain = re.sub(r"[`*$]", "", name)
            toc.append(f"{path.stem.partition('_')[0]} {plain} <../nbs/{path.stem}>")
        made[f"parts/{number}0.md"] = "\n".join(
            [f"# {title}", "", *rows, "", "```{toctree}", ":hidden:", "", *toc, "```", ""]
        )
    return made


def _menu(caption: str, entries: list[str]) -> str:
    listed = "\n".join(entries)
    return f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"


def front(decades: list[str], known: dict[str, str]) -> str:
    "The front page: what README.md says, and the menu."
    about = [f"docs/{name}" for name in PAGES] + [n for n in ABOUT if f"{n}.md" in known]
    return (
        relinked(readme(), "", known)
        + _menu("Notebooks", [d.removesuffix(".md") for d in decades])
        + _menu("Reference", ["Modules <api/index>", "Command line <commands/index>"])
        + _menu("About", about)
    )


def pages() -> dict[str, str]:
    "Every page of the site: its file -> its text."
    known = _documents()
    found = {f"nbs/{p.name}": staged_notebook(p, known) for p in notebooks()}
    for name, page in known.items():
        if name.endswith(".md") and page == name:
            folder = posixpath.dirname(name)
            text = relinked((ROOT / name).read_text(encoding="utf-8"), folder, known)
            found[page] = filled(text)
    found |= {f"api/{name}.md": text for name, text in api.pages().items()}
    found |= {f"commands/{name}.md": text for name, text in commands.pages().items()}
    decades = decade_pages(known)
    return found | decades | {"index.md": front(list(decades), known)}


def stage(
    folder: Path,  # what stands there and is no page is removed
) -> None:
    "Write pages and figures. What has not changed stays, so that Sphinx does not read it again."
    wanted = {name: text.encode() for name, text in pages().items()}
    wanted |= {f"figures/{p.name}": p.read_bytes() for p in (ROOT / "figures").glob("*.*")}
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        if path.relative_to(folder).as_posix() not in wanted:
            path.unlink()
    for name, content in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


# ---- building


def build(
    out: Path = OUT,  # gets source, doctrees and html
    fresh: bool = False,  # read every page again
) -> int:  # exit code of Sphinx: 0 when there was no warning
    "Stage the pages and build the site."
    from sphinx.cmd.build import build_main

    stage(out / "source")
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    jobs = str(min(4, os.cpu_count() or 1))
    how = ["-b", "html", "-c", str(ROOT / "docs"), "-d", str(out / "doctrees"), "-j", jobs]
    how += ["-W", "--keep-going", "-q"] + ["-E", "-a"] * fresh
    failed = build_main([*how, str(out / "source"), str(out / "html")])
    if failed:  # or the next build would pass over pages that it does not read again
        shutil.rmtree(out / "doctrees", ignore_errors=True)
    return failed


# ---- checking


_TAG = re.compile(r"<([a-zA-Z][\w-]*)\s([^<>]*)>")
_ATTRIBUTE = re.compile(r"(?<![\w:-])(id|name|href|src)=([\"'])(.*?)\2")
_LOADS = {"script", "link", "img", "iframe", "source", "video", "audio"}


class _Page:
    "Anchors, links and loaded files of a page, as Sphinx writes it."

    def __init__(
        self,
        text: str,  # HTML whose attributes are quoted, with < and > escaped in them
    ):
        self.anchors, self.links, self.loaded = set(), [], []
        for tag, attributes in _TAG.findall(text):
            given = {k: unescape(v) for k, _, v in _ATTRIBUTE.findall(attributes) if v}
            if tag != "meta":
                self.anchors |= {given[k] for k in ("id", "name") if k in given}
            if tag == "a" and "href" in given:
                self.links.append(given["href"])
            elif tag in _LOADS:
                self.loaded += [given[k] for k in ("src", "href") if k in given]


def _is_external(target: str) -> bool:
    return bool(re.match(r"(?:[a-z][a-z0-9+.-]*:)?//", target, re.I))


def _goal(path: Path) -> Path | None:
    "The file that a link leads to; None where there is none."
    path = path.resolve()
    path = path / "index.html" if path.is_dir() else path
    return path if path.is_file() else None


def problems(
    html: Path,  # the built site
) -> list[str]:  # one line for each find
    "Dead links and anchors, files loaded from elsewhere, and paths of this machine."
    read = {p: _Page(p.read_text(encoding="utf-8")) for p in sorted(html.rglob("*.html"))}
    found, goals = [], {}
    for path, page in read.items():
        name = path.relative_to(html).as_posix()
        found += [f"{name}: loads {t}" for t in page.loaded if _is_external(t)]
        for target in dict.fromkeys(page.links + page.loaded):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            way = path.parent, parts.path
            if parts.path and way not in goals:  # the menu leads to the same files on every page
                goals[way] = _goal(path.parent / unquote(parts.path))
            goal, anchor = goals[way] if parts.path else path, unquote(parts.fragment)
            if goal is None:
                found.append(f"{name}: link to {target}: no such file")
            elif anchor and goal in read and anchor not in read[goal].anchors:
                found.append(f"{name}: link to {target}: no such anchor")
    return found + _leaks(html)


def _leaks(html: Path) -> list[str]:
    "Paths of this machine, and styles that load from elsewhere."
    found = []
    for path in sorted(p for p in html.rglob("*") if p.suffix in (".html", ".js", ".css", ".json")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(html).as_posix()
        paths = {m[0] for m in _PATH.finditer(text)} | ({str(ROOT)} if str(ROOT) in text else set())
        found += [f"{name}: a path of this machine: {p}" for p in sorted(paths)]
        if path.suffix == ".css" and re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", text):
            found.append(f"{name}: loads a style or a font from elsewhere")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the site (default: _docs)")
    parser.add_argument("--fresh", action="store_true", help="read and write every page again")
    args = parser.parse_args()
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    failed = build(args.out.resolve(), args.fresh)
    found = problems(args.out.resolve() / "html")
    print(*found, sep="\n", file=sys.stderr)
    html = args.out / "html"
    count = len(list(html.rglob("*.html")))
    state = "warnings" if failed else "no warning"
    print(
        f"{html / 'index.html'}: {count} pages, {state}, {len(found)} dead links or foreign files"
    )
    return 1 if failed or found else 0


if __name__ == "__main__":
    sys.exit(main())
