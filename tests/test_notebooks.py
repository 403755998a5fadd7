"""Each notebook passes `nbdev_test` alone: at smoke scale, in its own process, offline.

From an empty cache. `nbdev_test` by hand runs many notebooks in each of a few processes: that
the command does so, on a few of them, is seen in test_nbdev.py; that no notebook leaves
anything behind for the next, here. Some run in a kernel too, as in JupyterLab.
"""

import os, shutil, tempfile
from pathlib import Path

import nbformat, pytest
from run_notebooks import (
    NBS,
    ROOT,
    NotebookError,
    environment,
    execute,
    notebooks,
    output_problems,
    tidy,
)
from warm_nbdev import run_notebook, warm_nbdev

TIMEOUT = float(
    os.environ.get("CPO_TEST_TIMEOUT", 600)
)  # seconds a notebook; about 15 are meant on an idle machine
IN_A_KERNEL = ("05_atelier", "20_loss", "index")


def _files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def shown(cell) -> list:
    "What a cell shows, without its plots."
    return [o.get("text") or o.data for o in cell.get("outputs", [])]


@pytest.fixture(scope="module")
def warm():
    "A process that has torch and diffusers imported; each notebook runs in a fork of it."
    with tempfile.TemporaryDirectory(prefix="cpo-") as folder:
        env = environment(Path(folder), "smoke", OMP_NUM_THREADS=1)
        with warm_nbdev(Path(folder), env) as server:
            yield server


@pytest.fixture
def own():
    "Folders of one notebook as variables; results are a copy of the committed ones."
    with tempfile.TemporaryDirectory(prefix="cpo-nb-") as tmp:
        names = ("cache", "runs", "figures", "results")
        shutil.copytree(ROOT / "data" / "results", Path(tmp) / "results")
        yield {f"CPO_{n.upper()}": Path(tmp).resolve() / n for n in names}


def nbdev(path: Path, warm: Path, timeout: float = TIMEOUT, **variables):
    "A notebook's run, and the notebook with its outputs, tidied."
    with tempfile.TemporaryDirectory(prefix="cpo-") as folder:
        folder = Path(folder).resolve()
        log = folder / "network.log"
        env = environment(folder, "smoke", CPO_NETWORK_LOG=log, OMP_NUM_THREADS=1, **variables)
        run = run_notebook(warm, path, env, folder, timeout)
        called = sorted(set(log.read_text().split())) if log.is_file() else []
        nb = nbformat.read(path, as_version=4)
        for cell in nb.cells:
            if cell.cell_type == "code":
                found = run.outputs.get(cell.id, [])
                cell.outputs = [nbformat.from_dict(o) for o in found]
        nb = nbformat.reads(nbformat.writes(nb), as_version=4)  # texts of lines become strings
        tidy(nb, folder)
    return run, called, nb


def test_processes_are_a_notebooks_own(warm, tmp_path):
    "Nothing of one notebook is seen by the next, and its process ends with it."
    code = "import os, sys; sys.seen = getattr(sys, 'seen', 0) + 1; print(os.getpid(), sys.seen)"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(nb, tmp_path / "a.ipynb")
    runs = [nbdev(tmp_path / "a.ipynb", warm) for _ in range(2)]
    (first, seen), (second, again) = (nb.cells[0].outputs[0].text.split() for *_, nb in runs)
    assert first != second and seen == again == "1"
    assert [r.said for r, *_ in runs] == ["Success.\n"] * 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)


BAD = {  # a notebook's code: what is said of it
    "1 / 0": "While Executing Cell #1",
    "import os; os.kill(os.getpid(), 9)": "it died",
    "import time; time.sleep(600)": "was not finished after 3 s",
    "import os; os.environ['CPO_SCALE'] = 'tiny'": "os.environ['CPO_SCALE']: smoke -> tiny",
    "import torch; torch.set_grad_enabled(False)": "gradients: True -> False",
    "import cpo_nb.core as c; c.new = lambda: 0": "cpo_nb.core.new: <lambda>",
    "import cpo_nb.core as c; c.CpoError.new = lambda: 0": "cpo_nb.core.CpoError: <lambda>",
}


@pytest.mark.parametrize("code", BAD)
def test_what_a_notebook_does_wrong_is_said(warm, tmp_path, code):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(nb, tmp_path / "a.ipynb")
    run, *_ = nbdev(tmp_path / "a.ipynb", warm, timeout=3)
    assert run.passed == bool(run.left)
    assert BAD[code] in run.said or run.left == [BAD[code]]


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebook_runs_alone(path, warm, own):
    before = _files(own["CPO_RESULTS"])
    run, called, nb = nbdev(path, warm, **own)
    if not run.passed:
        pytest.fail(run.said, pytrace=False)
    assert run.said.endswith("Success.\n")
    assert called == [], "reached for the network"
    assert run.left == [], "the next notebook that nbdev_test runs in this process would see it"
    after = _files(own["CPO_RESULTS"])
    assert {n: after.get(n) for n in before} == before, (
        "a run at smoke scale wrote over results of a larger scale"
    )
    assert output_problems(nb) == []


@pytest.mark.parametrize("name", IN_A_KERNEL)
def test_notebook_runs_in_a_kernel(name, own):
    "As in JupyterLab, and as `make notebooks` runs all of them when outputs are made."
    path = NBS / f"{name}.ipynb"
    try:
        nb = execute(path, "smoke", TIMEOUT, OMP_NUM_THREADS=1, **own)
    except NotebookError as e:
        pytest.fail(str(e), pytrace=False)
    assert output_problems(nb) == []
    if name == "index":  # README's numbers are what the stored results say, at every scale
        stored = nbformat.read(path, as_version=4)
        assert [shown(c) for c in nb.cells] == [shown(c) for c in stored.cells]
