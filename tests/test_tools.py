"The harness: a notebook that fails, hangs or calls out is named; README holds what a reader sees."

import socket, sys
from pathlib import Path

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from readme import ReadmeError, readme
from run_notebooks import ROOT, NotebookError, as_text, execute, output_problems, tidy


def _write(path: Path, *sources: str) -> Path:
    nbformat.write(new_notebook(cells=[new_code_cell(s) for s in sources]), path)
    return path


def test_a_notebook_runs_in_this_python_and_leaves_no_path(tmp_path):
    path = _write(
        tmp_path / "a.ipynb",
        "import sys, os, tempfile, pathlib\nprint(sys.prefix == %r, os.environ['CPO_SCALE'])"
        % sys.prefix,
        "print(pathlib.Path('.').resolve(), tempfile.mkdtemp())\n"
        "print('a warning', file=sys.stderr)",
        "object()",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()",
    )
    nb = execute(path, "smoke", 300)
    said = ["".join(o.get("text", "") or o.data["text/plain"] for o in c.outputs) for c in nb.cells]
    assert said[:3] == ["True smoke\n", "nbs TMP\n", "<object>"]
    assert "image/png" in nb.cells[3].outputs[0].data
    assert output_problems(nb) == [] and '"execution":' not in as_text(nb)


def test_a_failing_cell_is_named(tmp_path):
    with pytest.raises(
        NotebookError,
        match=r"(?s)b\.ipynb, cell 1 .*print\('before'\); 1/0.*before.*ZeroDivisionError",
    ):
        execute(
            _write(tmp_path / "b.ipynb", "x = 1", "print('before'); 1/0", "print('after')"),
            "smoke",
            300,
        )


def test_a_hanging_notebook_is_stopped(tmp_path):
    with pytest.raises(NotebookError, match=r"(?s)c\.ipynb.*not finished after 5 s"):
        execute(_write(tmp_path / "c.ipynb", "import time; time.sleep(600)"), "smoke", 5)


@pytest.mark.parametrize(
    "call",
    [
        "socket.create_connection(('example.invalid', 80))",
        "socket.socket().connect_ex(('192.0.2.1', 80))",
        "urllib.request.urlopen('http://example.invalid')",
    ],
)
def test_the_network_is_out_of_reach(tmp_path, call):
    "Even where the code swallows the error."
    path = _write(
        tmp_path / "d.ipynb", f"import socket, urllib.request\ntry: {call}\nexcept OSError: pass"
    )
    with pytest.raises(NotebookError, match="reached for the network"):
        execute(path, "smoke", 300)


def test_the_network_is_out_of_reach_in_tests():
    with pytest.raises(ConnectionError, match="no network here"):
        socket.create_connection(("example.invalid", 80))


def test_problems_of_outputs_are_found():
    cell = new_code_cell(
        "x",
        outputs=[
            new_output("stream", name="stdout", text="saved to /" + "home/me/x.png\n 12.3it/s"),
            new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}}),
        ],
    )
    nb = new_notebook(cells=[cell], metadata=dict(widgets={"state": {}}))
    assert [
        p.split(": ")[-2 if "path" in p or "bar" in p else -1] for p in output_problems(nb)
    ] == ["a widget", "an absolute path", "a progress bar", "widget state"]


def test_tidy_keeps_what_a_reader_needs():
    cell = new_code_cell(
        "x",
        outputs=[
            new_output("stream", name="stdout", text=f"\x1b[31m{ROOT}/data/a.json\x1b[0m"),
            new_output("stream", name="stderr", text="w"),
        ],
    )
    nb = new_notebook(cells=[cell], metadata=dict(language_info=dict(name="python")))
    tidy(nb)
    assert [o.text for o in nb.cells[0].outputs] == [
        "data/a.json"
    ] and "language_info" not in nb.metadata


def _index(folder: Path, *cells) -> str:
    (folder / "nbs").mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=list(cells)), folder / "nbs" / "index.ipynb")
    return readme(folder / "nbs" / "index.ipynb", folder).split("\n\n", 1)[1]


def test_readme_holds_what_a_reader_may_see(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "nbs").mkdir()
    for name in ("figures/a.png", "nbs/00_core.ipynb", "LICENSE"):
        (tmp_path / name).touch()
    text = _index(
        tmp_path,
        new_code_cell("#| hide\nimport secret"),
        new_markdown_cell(
            '# T\n![f](../figures/a.png) [n](00_core.ipynb#x) <img src="../figures/a.png"> '
            "[l](../LICENSE) [w](https://x.y/z) [s](#s)\n`[c](no)`"
        ),
        new_code_cell("#| export\ndef f(): ..."),
        new_code_cell(
            "1 + 1",
            outputs=[new_output("execute_result", {"text/plain": "2", "text/html": "<b>2</b>"})],
        ),
        new_code_cell(
            "#| echo: false\nx",
            outputs=[
                new_output("stream", name="stderr", text="noise"),
                new_output("display_data", {"text/markdown": "| a |\n|---|", "text/plain": "obj"}),
            ],
        ),
    )
    assert text == (
        '# T\n![f](figures/a.png) [n](nbs/00_core.ipynb#x) <img src="figures/a.png"> '
        "[l](LICENSE) [w](https://x.y/z) [s](#s)\n`[c](no)`\n\n"
        "```python\n1 + 1\n```\n\n```text\n2\n```\n\n| a |\n|---|\n"
    )


def test_readme_refuses_images_and_dead_links_together(tmp_path):
    picture = new_code_cell(
        "plt.show()",
        outputs=[new_output("display_data", {"image/png": "aGk=", "text/plain": "<Figure>"})],
    )
    with pytest.raises(ReadmeError, match=r"(?s)2 problem.*plots an image.*no figures/b\.png"):
        _index(tmp_path, picture, new_markdown_cell("![b](../figures/b.png)"))
