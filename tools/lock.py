"""Write requirements.lock: the exact versions of the environment that `make test` has passed in.

usage: python tools/lock.py
"""

import re
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# what torch brings along depends on the machine (CPU or CUDA): its own requirements say it
_ACCELERATOR = re.compile(r"^(nvidia|triton|pytorch-triton|cuda)\b", re.IGNORECASE)
_OWN = {"pip", "cpo-nb"}
_HEADER = """\
# The exact environment of development, tests and results.
# `make setup` installs it, `make lock` writes it.
# What the package itself requires has lower bounds only and stands in settings.ini.
# torch is installed first and brings its own accelerator packages: none are named here.
"""


def pins() -> list[str]:
    "`name==version` of every installed distribution, sorted, without build tags such as +cpu."
    found = {}
    for d in distributions():
        name = re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower()
        if name in _OWN or _ACCELERATOR.match(name):
            continue
        found[name] = f"{name}=={d.version.partition('+')[0]}"
    return [found[n] for n in sorted(found)]


if __name__ == "__main__":
    lock = pins()
    (ROOT / "requirements.lock").write_text(_HEADER + "\n".join(lock) + "\n", encoding="utf-8")
    print(f"requirements.lock: {len(lock)} pins")
