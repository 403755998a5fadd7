"The command `nbdev_test`, as people who use nbdev run it: a process for many notebooks."

import os, re, shutil, subprocess, sys
from pathlib import Path

from run_notebooks import ROOT

# one or two of each decade, quick ones; every notebook by itself: test_notebooks.py
TOGETHER = (
    "00_core 04_prompts 12a_schedules 21_runs 28_methods 39_sizes 42c_roofline 50_fig_tree".split()
)


def test_nbdev_test_passes(tmp_path):
    "At smoke scale; results are a copy, so that nothing is written into the checkout."
    shutil.copytree(ROOT / "data" / "results", tmp_path / "results")
    env = os.environ | {f"CPO_{n.upper()}": str(tmp_path / n) for n in ("cache", "runs", "figures")}
    env |= dict(CPO_SCALE="smoke", CPO_RESULTS=str(tmp_path / "results"), OMP_NUM_THREADS="1")
    env.pop("IN_TEST", None)
    command = [Path(sys.executable).with_name("nbdev_test"), "--n_workers", "1", "--do_print"]
    command += ["--file_re", rf"^({'|'.join(TOGETHER)})\.ipynb$"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert re.findall(r"Completed .*/(\w+)\.ipynb", done.stdout) == TOGETHER
    assert "Success." in done.stdout
