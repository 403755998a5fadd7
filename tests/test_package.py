"An installed wheel finds its data from anywhere, without the checkout."

import os, shutil, subprocess, sys, zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _run(*command, **kwargs) -> str:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "The wheel, built from the source archive in a copy: a build writes folders beside setup.py."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("cpo_nb", "data"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (
        "setup.py",
        "settings.ini",
        "pyproject.toml",
        "MANIFEST.in",
        "LICENSE",
        "README.md",
    ):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source)
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source, cwd=source)
    return next(out.glob("*.whl"))


def test_wheel_holds_code_and_data(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"cpo_nb/{p.relative_to(ROOT / 'cpo_nb').as_posix()}"
        for p in (ROOT / "cpo_nb").rglob("*.py")
    }
    expected |= {
        f"cpo_nb/data/{p.relative_to(ROOT / 'data').as_posix()}"
        for p in (ROOT / "data").rglob("*")
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(ROOT).parts)
    }
    assert sorted(expected - names) == []
    assert sorted(n for n in names - expected if ".dist-info/" not in n) == []


def test_installed_wheel_finds_its_data(wheel, tmp_path):
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    _run(
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        target,
        wheel,
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), os.environ["PYTHONPATH"]])}
    code = "\n".join(
        [
            "import cpo_nb; from cpo_nb.core import data_dir, repo_root",
            "print(cpo_nb.__file__); print(repo_root()); print(data_dir())",
            "trees = list((data_dir()/'criteria').glob('*.yaml'))",
            "print(len(trees), (data_dir()/'style.mplstyle').is_file())",
        ]
    )
    package, root, data, found = _run(
        sys.executable, "-c", code, cwd=elsewhere, env=env
    ).splitlines()
    assert (
        Path(package).parent == target / "cpo_nb"
        and root == "None"
        and Path(data) == target / "cpo_nb" / "data"
    )
    assert found == f"{len(list((ROOT / 'data' / 'criteria').glob('*.yaml')))} True"
    assert (target / "bin" / "cpo").is_file()
