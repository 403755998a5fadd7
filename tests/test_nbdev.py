"The notebooks pass `nbdev_test`, as people who use nbdev run it: few processes for many notebooks."

import os, shutil, subprocess, sys
from pathlib import Path

import pytest
from run_notebooks import ROOT


@pytest.mark.timeout(2400)
def test_nbdev_test_passes(tmp_path):
    "At smoke scale; results are a copy, so that nothing is written into the checkout."
    shutil.copytree(ROOT / "data" / "results", tmp_path / "results")
    env = os.environ | {f"CPO_{n.upper()}": str(tmp_path / n) for n in ("cache", "runs", "figures")}
    env |= dict(CPO_SCALE="smoke", CPO_RESULTS=str(tmp_path / "results"), OMP_NUM_THREADS="1")
    env.pop("IN_TEST", None)
    command = [Path(sys.executable).with_name("nbdev_test"), "--n_workers", "2", "--do_print"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "Success." in done.stdout
