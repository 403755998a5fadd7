"Every test runs at smoke scale, without a network, and writes nothing into the checkout."

import atexit, compileall, os, shutil, sys, tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_tmp = Path(tempfile.mkdtemp(prefix="cpo-tests-"))
atexit.register(shutil.rmtree, _tmp, ignore_errors=True)

import run_notebooks  # on the path by pyproject.toml

os.environ |= run_notebooks.offline(_tmp, os.environ.get("PYTHONPATH", ""))
os.environ |= dict(
    CPO_SCALE="smoke",
    CPO_CACHE=str(_tmp / "cache"),
    CPO_RUNS=str(_tmp / "runs"),
    CPO_FIGURES=str(_tmp / "figures"),
    OMP_NUM_THREADS="1",
    TQDM_DISABLE="1",
    MPLBACKEND="agg",
)
sys.path.insert(0, str(ROOT))  # the checkout is what is tested, whatever else is installed

# this process runs already: the guard that its children get by PYTHONPATH is installed by hand
exec(
    compile(
        (ROOT / "tools" / "offline" / "sitecustomize.py").read_text(), "sitecustomize.py", "exec"
    ),
    {"__name__": "sitecustomize"},
)


def pytest_configure(config):
    "Compile the package once: processes that write no bytecode would do it again and again."
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "cpo_nb", quiet=1)


def pytest_collection_modifyitems(items):
    """Long work begins first, so that no worker waits at the end.

    The groups (`xdist_group`: what shares a site, launches or a server) come before all by
    xdist's own rule; then notebooks, then what is short.
    """
    items.sort(key=lambda item: not item.nodeid.startswith("tests/test_notebooks.py"))
