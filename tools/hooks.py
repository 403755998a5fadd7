"""Install git hooks for notebooks: merges that keep a notebook readable, and trust after a merge.

usage: python tools/hooks.py

It does what `nbdev_install_hooks` does, with three differences. The programs are named by their
full path, so that git finds them without the environment being active. Worktrees work. Nothing is
written outside the repository. A hook of your own is never overwritten.
"""

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_MARK = "# by tools/hooks.py"


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def _program(name: str) -> str:
    "A program beside the running Python, quoted for a shell."
    return shlex.quote(str(Path(sys.executable).parent / name))


def install(
    root: Path = ROOT,  # a git repository, or a worktree of one
) -> Path:  # the hook that was written
    "Configure the merge of notebooks, and write the hook. Raises `SystemExit` for another's hook."
    hook = (root / _git(root, "rev-parse", "--git-path", "hooks")).resolve() / "post-merge"
    if hook.exists() and _MARK not in hook.read_text(encoding="utf-8"):
        raise SystemExit(
            f"{hook}: there is a hook of your own\n"
            f"  Hint: add the line {_program('nbdev_trust')} to it"
        )
    _git(root, "config", "--local", "merge.nbdev-merge.name", "resolve conflicts in notebooks")
    _git(
        root,
        "config",
        "--local",
        "merge.nbdev-merge.driver",
        f"{_program('nbdev_merge')} %O %A %B %P",
    )
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{_MARK}\nexec {_program('nbdev_trust')}\n", encoding="utf-8")
    hook.chmod(0o755)
    return hook


if __name__ == "__main__":
    install()
    print("hooks are installed: notebooks merge by nbdev_merge, and are trusted after a merge")
