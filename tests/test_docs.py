"The site builds without a warning and without a network; help() shows what docments say."

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import api
import build_docs
import commands
import hooks
import pytest
import yaml

from cpo_nb.docments import definitions, document

pytestmark = pytest.mark.xdist_group("site")  # built once, and nobody waits for it
ROOT = api.ROOT


def run(*words, **environment):
    "A program of this Python in the root of the repository."
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *map(str, words)], cwd=ROOT, env=env, capture_output=True, text=True
    )


# ---- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the site; what the builder said lies beside it."
    out = tmp_path_factory.mktemp("docs") / "site"
    log = out.with_suffix(".network")
    done = run("tools/build_docs.py", "--out", out, CPO_NETWORK_LOG=str(log))
    said = dict(code=done.returncode, text=done.stdout + done.stderr, network=log.is_file())
    (out / "said.json").write_text(json.dumps(said), encoding="utf-8")
    return out


@pytest.fixture
def html(site):
    return site / "html"


def test_site_builds_without_a_warning(site):
    said = json.loads((site / "said.json").read_text(encoding="utf-8"))
    assert said["code"] == 0, said["text"]
    assert "no warning" in said["text"]


def test_site_builds_without_a_network(site):
    assert json.loads((site / "said.json").read_text(encoding="utf-8"))["network"] is False


def test_links_and_anchors_are_sound(site):
    "The builder has looked; that it finds what is wrong is seen below."
    said = json.loads((site / "said.json").read_text(encoding="utf-8"))
    assert "0 dead links or foreign files" in said["text"]


def test_nothing_is_loaded_from_elsewhere(html):
    pattern = re.compile(
        r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"'](?:https?:)?//[^>]*>"
    )
    found = {
        p.name: m[0]
        for p in html.rglob("*.html")
        if (m := pattern.search(p.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_everything_has_a_page(html):
    wanted = [f"nbs/{p.stem}" for p in build_docs.notebooks()]
    wanted += [f"api/{p.stem}" for p in api.modules()]
    wanted += [f"commands/{path[1]}" for path, *_ in commands.commands()[1:]]
    wanted += [f"docs/{name}" for name in build_docs.PAGES] + ["index", "search", "CHANGELOG"]
    assert [w for w in wanted if not (html / f"{w}.html").is_file()] == []


def test_menu_leads_everywhere(html):
    "Each notebook, module and command is reached from the front page's menu."
    front = (html / "index.html").read_text(encoding="utf-8")
    assert [
        p.stem for p in build_docs.notebooks() if f'href="nbs/{p.stem}.html"' not in front
    ] == []
    assert [p.stem for p in api.modules() if f'href="api/{p.stem}.html"' not in front] == []


def test_tables_in_outputs_are_tables(html):
    "What a notebook displays as Markdown is not shown as pipes."
    pages = {p.stem: p.read_text(encoding="utf-8") for p in (html / "nbs").glob("*.html")}
    assert [name for name, text in pages.items() if re.search(r"<p>\|[^\n]*\|", text)] == []


def test_page_of_a_module_shows_docments(html):
    text = (html / "api" / "docments.html").read_text(encoding="utf-8")
    assert 'id="cpo_nb.docments.document"' in text
    assert "<code" in text and "of the module, at its end" in text


def test_option_with_bars_stays_in_its_column(html):
    text = (html / "commands" / "align.html").read_text(encoding="utf-8")
    assert "--start base|better|ADAPTER" in re.sub(r"<[^>]+>", "", text)


def test_formulas_need_no_script(html):
    page = next(p for p in (html / "nbs").glob("*_loss.html"))
    text = page.read_text(encoding="utf-8")
    assert "<math" in text
    assert re.findall(r"<script[^>]*(?:mathjax|katex)[^>]*>", text, re.I) == []


def test_search_knows_the_modules(html):
    text = (html / "searchindex.js").read_text(encoding="utf-8")
    assert all(f"api/{p.stem}" in text for p in api.modules())


def test_places_in_pages_are_filled(html):
    assert "class LossOutput" in re.sub(
        r"<[^>]+>", "", (html / "docs" / "extending.html").read_text()
    )
    assert "step 1" in (html / "docs" / "logged.html").read_text(encoding="utf-8")


def test_pages_of_docs_say_what_is_logged():
    "Every statistic of the losses is explained."
    text = (ROOT / "docs" / "logged.md").read_text(encoding="utf-8")
    columns = [
        "step",
        "lr",
        "seconds",
        "loss",
        "grad_norm",
        "d_w",
        "d_l",
        "margin",
        "accuracy",
        "lam",
        "cosine",
    ]
    assert [c for c in columns if f"| `{c}` |" not in text] == []


# ---- its tools


def test_checker_finds_what_is_wrong(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html">no file</a> <a href="#x">no anchor</a> <a href="a.html#here">sound</a>'
        '<p id="here"></p> <script src="https://example.org/x.js"></script> <a href="https://a.b">out</a>'
        f"<p>{Path('/') / 'home' / 'someone' / 'data'}</p>",
        encoding="utf-8",
    )
    (tmp_path / "a.css").write_text("@import url(https://example.org/font.css);", encoding="utf-8")
    found = build_docs.problems(tmp_path)
    assert len(found) == 5, found


def test_staged_notebook_has_no_hidden_cells(tmp_path):
    def cell(source, kind="code"):
        rest = dict(outputs=[], execution_count=None) if kind == "code" else {}
        return dict(cell_type=kind, id="x", metadata={}, source=source, **rest)

    cells = [
        cell("# Title\n\n> Sentence.", "markdown"),
        cell("#| hide\nimport os"),
        cell("#| export\nx = 1"),
    ]
    cells += [cell("#| echo: false\ny = 2"), cell("import os\n\nfrom pathlib import Path")]
    path = tmp_path / "00_x.ipynb"
    path.write_text(
        json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)), encoding="utf-8"
    )
    staged = json.loads(build_docs.staged_notebook(path, {}))["cells"]
    sources = [c["source"] for c in staged]
    assert sources[:3] == ["# Title\n\n> Sentence.", "x = 1", "y = 2"]
    tags = [c["metadata"].get("tags") for c in staged]
    assert tags == [None, [], ["remove-input"], ["hide-input"]]


@pytest.mark.parametrize(
    "text, wanted",
    [
        pytest.param("[a](../README.md)", "[a](../index.md)", id="readme"),
        pytest.param("[a](x.ipynb#Some-Part)", "[a](x.ipynb#some-part)", id="anchor"),
        pytest.param("[a](../Makefile)", "[a](GIT/blob/BRANCH/Makefile)", id="file without a page"),
        pytest.param("[a](https://a.b/c.md)", "[a](https://a.b/c.md)", id="elsewhere"),
        pytest.param("`[a](../Makefile)`", "`[a](../Makefile)`", id="code"),
    ],
)
def test_links_lead_to_pages(text, wanted):
    settings = api.settings()
    wanted = wanted.replace("GIT", settings["git_url"]).replace("BRANCH", settings["branch"])
    known = {"README.md": "index.md", "nbs/x.ipynb": "nbs/x.ipynb"}
    assert build_docs.relinked(text, "nbs", known) == wanted


MODULE = textwrap.dedent("""
    from dataclasses import dataclass, field
    from fastcore.basics import patch
    __all__ = ["Config", "fit", "LIMIT"]
    LIMIT = 3 # most of it

    @dataclass
    class Config:
        "Settings."
        steps: int # training steps
        names: list = field(default_factory=list)

        def rate(self, step: int) -> float: # learning rate
            "Rate of a step."
            return 1.

    @patch
    def scaled(self: Config,
               # a factor,
               # positive
               by: float
    ) -> Config: # a copy
        "Another rate."

    def fit(
        cfg: Config, # settings
        *,
        seed: int = 0 # of the data order
    ) -> float: # the last loss
        "Train."

    def not_exported(x): return x
""")


def test_undocumented_names_parameters_without_a_comment(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(MODULE, encoding="utf-8")
    assert api.undocumented(path) == ["Config.names", "Config.rate.step"]
    assert api.count(path) == 6


def test_undocumented_agrees_with_fastcore():
    "On plain functions of a light module."
    from fastcore.docments import docments

    import cpo_nb.criteria as module

    found = {d.name: d for d in api.public(Path(module.__file__)) if d.kind == "function"}
    assert found
    for name, d in found.items():
        theirs = docments(getattr(module, name), returns=False, args_kwargs=True)
        assert {p.name.lstrip("*"): p.comment for p in d.parameters} == {
            k: v or "" for k, v in theirs.items()
        }, name


def test_source_of_a_definition():
    text = api.source_of("cpo_nb.docments.Definition.is_command")
    assert text.startswith("@property\ndef is_command(self)")
    assert api.source_of("docments.Parameter").splitlines()[0] == "@dataclass(frozen=True)"
    with pytest.raises(KeyError, match="no nothing"):
        api.source_of("docments.nothing")


# ---- help()


@pytest.fixture
def example(tmp_path, monkeypatch):
    "A module whose last line calls `document`."
    text = f"{MODULE}\nfrom cpo_nb.docments import document\ndocument(globals())\n"
    (tmp_path / "docments_example.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("docments_example")
    del sys.modules["docments_example"]


def test_help_shows_parameters_and_returns(example):
    assert inspect.getdoc(example.fit) == textwrap.dedent("""\
        Train.

        Parameters
        ----------
        cfg : Config
            settings
        seed : int, default 0
            of the data order

        Returns
        -------
        float
            the last loss""")


def test_help_shows_fields(example):
    assert "steps : int\n    training steps\nnames : list, default list()" in example.Config.__doc__


def test_help_shows_patched_methods(example):
    assert "by : float\n    a factor, positive" in example.Config.scaled.__doc__


def test_help_shows_what_a_method_returns(example):
    assert (
        example.Config.rate.__doc__
        == "Rate of a step.\n\nReturns\n-------\nfloat\n    learning rate"
    )


def test_documenting_twice_changes_nothing(example):
    before = example.fit.__doc__, example.Config.__doc__
    document(vars(example))
    assert (example.fit.__doc__, example.Config.__doc__) == before


def test_nothing_undocumented_gets_a_block(example):
    assert example.not_exported.__doc__ is None


@pytest.mark.parametrize("module", [{}, dict(__spec__=None), dict(__name__="x", __spec__=object())])
def test_document_never_raises(module):
    before = dict(module)
    document(module)
    assert module == before


def test_document_is_silent_without_docstrings(example):
    code = "import docments_example as m; print(m.fit.__doc__)"
    folder = Path(example.__file__).parent
    done = subprocess.run(
        [sys.executable, "-OO", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)])),
    )
    assert (done.stdout.strip(), done.returncode) == ("None", 0), done.stderr


def test_document_works_from_an_archive(example, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.write(example.__file__, "docments_example.py")
    code = "import docments_example as m; print(m.__file__, m.fit.__doc__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | dict(PYTHONPATH=os.pathsep.join([str(tmp_path / "m.zip"), str(ROOT)])),
    )
    assert done.returncode == 0, done.stderr
    assert "m.zip" in done.stdout and "of the data order" in done.stdout


def test_document_needs_the_standard_library_only():
    heavy = ["torch", "numpy", "fastcore"]
    code = f"import sys, cpo_nb.docments; print([m for m in {heavy} if m in sys.modules])"
    done = run("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


def test_every_module_can_be_read():
    assert all(definitions(p.read_text(encoding="utf-8")) for p in api.modules())


# ---- what stands beside the code


def test_citation_and_changelog_name_the_version():
    version = api.settings()["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert [len(r["authors"]) for r in citation["references"]] == [12]


def test_workflow_can_be_read():
    jobs = yaml.safe_load(
        (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    )["jobs"]
    commands_run = [step.get("run") for job in jobs.values() for step in job["steps"]]
    assert "make test PYTHON=python${{ matrix.python }}" in commands_run
    assert "make docs" in commands_run
    assert ".venv/bin/nbdev_test --do_print" in commands_run
    assert "make test-studio" in commands_run


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_hooks_are_installed(tmp_path):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    hook = hooks.install(tmp_path)
    assert os.access(hook, os.X_OK)
    driver = subprocess.run(
        ["git", "config", "merge.nbdev-merge.driver"], cwd=tmp_path, capture_output=True, text=True
    )
    assert driver.stdout.split()[0] == str(Path(sys.executable).parent / "nbdev_merge")
    hooks.install(tmp_path)  # a second time is no harm
    hook.write_text("#!/bin/sh\necho mine\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="Hint:"):
        hooks.install(tmp_path)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_conflict_leaves_a_notebook_with_both_versions(tmp_path):
    "It can be read as JSON, and what did not conflict is merged."

    def git(*words):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(["git", *who, *words], cwd=tmp_path, capture_output=True, text=True)

    def commit(*sources):
        rest = dict(cell_type="code", metadata={}, outputs=[], execution_count=None)
        cells = [dict(rest, id=f"c{i}", source=s) for i, s in enumerate(sources)]
        nb = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
        (tmp_path / "a.ipynb").write_text(json.dumps(nb, indent=1) + "\n", encoding="utf-8")
        assert git("add", "-A").returncode == 0 and git("commit", "-m", "x").returncode == 0

    git("init", "-q", "-b", "main")
    hooks.install(tmp_path)
    for name in (".gitattributes", "settings.ini"):
        shutil.copy(ROOT / name, tmp_path)
    commit("x = 1", "y = 1", "z = 1")
    git("checkout", "-q", "-b", "other")
    commit("x = 2", "y = 1", "z = 1")
    git("checkout", "-q", "main")
    commit("x = 3", "y = 1", "z = 3")
    assert git("merge", "other").returncode != 0
    cells = json.loads((tmp_path / "a.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells]
    assert {"x = 2", "x = 3", "z = 3"} <= set(sources) and sources.count("y = 1") == 1
