"Each notebook runs alone: at smoke scale, in its own process, from an empty cache, offline."

import os, shutil, tempfile
from pathlib import Path

import nbformat, pytest
from run_notebooks import ROOT, NotebookError, environment, execute, notebooks, output_problems
from warm_kernels import warm_kernels

TIMEOUT = float(
    os.environ.get("CPO_TEST_TIMEOUT", 600)
)  # seconds a notebook; about 15 are meant on an idle machine


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
        with warm_kernels(Path(folder), env) as server:
            yield server


def test_kernels_are_processes_of_their_own(warm, tmp_path):
    "Nothing of one notebook is seen by the next, and its process ends with it."
    code = "import os, sys; sys.seen = getattr(sys, 'seen', 0) + 1; print(os.getpid(), sys.seen)"
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(nb, tmp_path / "a.ipynb")
    runs = [execute(tmp_path / "a.ipynb", "smoke", TIMEOUT, warm) for _ in range(2)]
    (first, seen), (second, again) = (r.cells[0].outputs[0].text.split() for r in runs)
    assert first != second and seen == again == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(int(first), 0)


@pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
def test_notebook_runs_alone(path, warm):
    results = ROOT / "data" / "results"
    with tempfile.TemporaryDirectory(prefix="cpo-nb-") as tmp:
        tmp = Path(tmp)
        # figure notebooks read the committed results: a copy shows that none is written over
        if results.is_dir():
            shutil.copytree(results, tmp / "results")
        before = _files(tmp / "results")
        try:
            nb = execute(
                path,
                "smoke",
                TIMEOUT,
                warm,
                OMP_NUM_THREADS=1,
                CPO_CACHE=tmp / "cache",
                CPO_RUNS=tmp / "runs",
                CPO_FIGURES=tmp / "figures",
                CPO_RESULTS=tmp / "results",
            )
        except NotebookError as e:
            pytest.fail(str(e), pytrace=False)
        after = _files(tmp / "results")
    assert {n: after.get(n) for n in before} == before, (
        "a run at smoke scale wrote over results of a larger scale"
    )
    assert output_problems(nb) == []
    if path.stem == "index":  # README's numbers are what the stored results say, at every scale
        stored = nbformat.read(path, as_version=4)
        assert [shown(c) for c in nb.cells] == [shown(c) for c in stored.cells]
