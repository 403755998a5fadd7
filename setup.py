"Packaging. Every setting stands in settings.ini: edit it there, not here."

import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
STATUSES = [
    "0 - Pre-Planning",
    "1 - Planning",
    "2 - Pre-Alpha",
    "3 - Alpha",
    "4 - Beta",
    "5 - Production/Stable",
    "6 - Mature",
    "7 - Inactive",
]
PYTHONS = ["3.11", "3.12", "3.13"]  # those that the tests were run on
LICENCES = {"apache2": "Apache-2.0"}

parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(ROOT / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]
min_python = cfg["min_python"]
if min_python not in PYTHONS:
    raise SystemExit(
        f"settings.ini: min_python = {min_python} is not one of {', '.join(PYTHONS)} (setup.py)"
    )

package = cfg["lib_name"]
readme = ROOT / "README.md"

setup(
    name=package,
    version=cfg["version"],
    description=cfg["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.is_file() else cfg["description"],
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license=LICENCES[cfg["license"]],
    url=cfg["git_url"],
    classifiers=[
        f"Development Status :: {STATUSES[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        *(f"Programming Language :: Python :: {v}" for v in PYTHONS[PYTHONS.index(min_python) :]),
    ],
    # top-level data/ is the package's data folder: one copy in a checkout, cpo_nb/data in a wheel
    packages=[package, f"{package}.data"],
    package_dir={package: cfg["lib_path"], f"{package}.data": "data"},
    package_data={f"{package}.data": ["*", "**/*"]},
    include_package_data=False,
    python_requires=f">={min_python}",
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={
        k.removesuffix("_requirements"): shlex.split(v)
        for k, v in cfg.items()
        if k.endswith("_requirements")
    },
    entry_points={
        "console_scripts": shlex.split(cfg["console_scripts"]),
        "nbdev": [f"{package}={package}._modidx:d"],
    },
    zip_safe=False,
)
