"The repository keeps its word: clean notebooks, modules that match them, safe and small data."

import ast, configparser, copy, io, json, os, re, shutil, subprocess, sys, tokenize
from functools import cache
from pathlib import Path

import nbformat, pytest, yaml
from api import undocumented
from nbdev.clean import clean_nb
from readme import INDEX, readme
from run_notebooks import MAX_BYTES, NBS, ROOT, notebooks, output_problems

LIB = ROOT / "cpo_nb"
SETTINGS = configparser.ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")
CFG = SETTINGS["DEFAULT"]
ALL = sorted(NBS.glob("*.ipynb"))  # drafts too: what is committed is checked
MODULES = sorted(p for p in LIB.rglob("*.py") if not p.name.startswith("_"))
every_notebook = pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
every_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:root|home|work|tmp|Users)/[A-Za-z][^\s'\"<>)\\]*")


def _source(cell) -> str:
    return "".join(cell["source"])


def _python(source: str) -> str:
    "A cell's source without IPython's own lines."
    return "\n".join(line for line in source.splitlines() if not re.match(r"\s*[%!]", line))


@cache
def _exports() -> dict[str, str]:
    "Module name -> stem of the notebook that exports it."
    found = {}
    for p in notebooks():
        for cell in json.loads(p.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code" and (
                m := re.search(r"^#\s*\|\s*default_exp\s+(\S+)", _source(cell), re.MULTILINE)
            ):
                found[m[1]] = p.stem
    return found


# ---- notebooks


@every_notebook
def test_notebook_is_clean(path):
    text = path.read_text(encoding="utf-8")
    nb = json.loads(text)
    cleaned = copy.deepcopy(nb)
    clean_nb(
        cleaned,
        allowed_metadata_keys=CFG.get("allowed_metadata_keys", "").split(),
        allowed_cell_metadata_keys=CFG.get("allowed_cell_metadata_keys", "").split(),
        clean_ids=True,
    )
    assert nb == cleaned, "run `make export`"
    assert text == json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n", (
        "not in nbdev's form: run `make export`"
    )


@every_notebook
def test_outputs_may_be_committed(path):
    assert output_problems(nbformat.read(path, as_version=4)) == [], "run `make notebooks`"


@every_notebook
def test_notebook_is_small(path):
    assert path.stat().st_size <= MAX_BYTES, (
        f"{path.stat().st_size / 1024:.0f} KB: plot fewer or smaller images"
    )


@every_notebook
def test_outputs_are_there(path):
    hidden = re.compile(r"^#\s*\|\s*(hide|export\w*|output:\s*false|eval:\s*false)", re.M)

    def shows(code):
        calls = [
            n.value
            for n in ast.parse(_python(code)).body
            if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)
        ]
        return any(_dotted(c.func) in ("print", "plt.show", "display") for c in calls)

    silent = [
        c["id"]
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
        and not c["outputs"]
        and not hidden.search(_source(c))
        and shows(_source(c))
    ]
    assert silent == [], (
        f"cells that print or draw, without an output: run `make notebooks NB={path.stem}`"
    )


@every_notebook
def test_notebook_begins_with_title_and_sentence(path):
    first = next(
        c
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "markdown"
    )
    assert re.match(r"# \S.*\n+> \S", _source(first)), (
        "the first text cell is `# Title`, then `> one sentence`"
    )


def test_cell_ids_are_unique():
    for path in ALL:
        ids = [c["id"] for c in json.loads(path.read_text(encoding="utf-8"))["cells"]]
        assert len(ids) == len(set(ids)), path.name


# ---- modules


def test_modules_are_what_notebooks_export(tmp_path):
    "Byte for byte. The export runs in a copy: it finds its settings by the working folder."
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(NBS, tmp_path / "nbs", ignore=shutil.ignore_patterns(".*"))
    (tmp_path / "cpo_nb").mkdir()
    shutil.copy(
        LIB / "__init__.py", tmp_path / "cpo_nb"
    )  # nbdev writes the version into it and leaves the rest
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"}
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()",
        ],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    fresh, here = (
        {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.py")}
        for folder in (tmp_path / "cpo_nb", LIB)
    )
    assert sorted(here.keys() - fresh.keys()) == [], "modules that no notebook exports"
    assert sorted(fresh.keys() - here.keys()) == [], "not exported yet: run `make export`"
    assert [n for n in sorted(here) if here[n] != fresh[n]] == [], (
        "modules that differ from their notebooks: run `make export`"
    )
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes(), (
        "nbdev would write another pyproject.toml"
    )


def _own_imports(path: Path) -> set[str]:
    "Modules of this package that a module imports, anywhere in it."
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("cpo_nb.")}
        elif isinstance(node, ast.ImportFrom):
            name = node.module or ""
            if node.level:
                found |= {name.split(".")[0]} if name else {a.name for a in node.names}
            elif name == "cpo_nb":
                found |= {a.name for a in node.names}
            elif name.startswith("cpo_nb."):
                found.add(name.split(".")[1])
    return found - {"__version__"}


@every_module
def test_imports_go_downwards(path):
    number = _exports()
    if path.stem not in number:
        pytest.fail(f"{path.name}: no notebook exports it")
    own = _own_imports(path) - {"docments"}
    upward = sorted(m for m in own if number.get(m, "~") >= number[path.stem])
    assert upward == [], f"{number[path.stem]} imports what stands after it in the reading order"


def test_docments_imports_nothing_of_the_package():
    "So every module may call it, `core` included, although its notebook is read after that one."
    assert _own_imports(LIB / "docments.py") == set()


def _private_uses(path: Path) -> list[str]:
    "Private names of other modules of this package that a module imports or reads."
    tree, found, modules = ast.parse(path.read_text(encoding="utf-8")), [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "") == "cpo_nb"):
            found += [a.name for a in node.names if re.match(r"_[^_]", a.name)]
            if not node.module or node.module == "cpo_nb":
                modules |= {a.asname or a.name for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                found.append(f"{node.value.id}.{node.attr}")
    return found


@every_module
def test_private_names_stay_in_their_module(path):
    assert _private_uses(path) == [], "what a second module needs is public and documented"


@every_module
def test_modules_are_short(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 600, f"{lines} lines: split {path.stem} by ideas"


HEAVY = dict(
    core=["torch", "matplotlib"],
    criteria=["torch", "diffusers", "transformers", "datasets"],
    loss=["diffusers", "transformers", "datasets"],
)


@pytest.mark.parametrize("module", HEAVY)
def test_light_modules_stay_light(module):
    code = f"import sys, cpo_nb.{module}; print([m for m in {HEAVY[module]} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@every_module
def test_imports_are_required(path):
    "Every imported package is named in settings.ini; late imports may be in an extra."
    distribution = dict(PIL="pillow", yaml="pyyaml", skimage="scikit-image", sklearn="scikit-learn")
    distribution["huggingface_hub"] = "huggingface-hub"
    distribution["crowdkit"] = "crowd-kit"

    def names(key):
        return {re.match(r"[A-Za-z0-9_-]+", r)[0].lower() for r in CFG.get(key, "").split()}

    required, extra = (
        names("requirements"),
        set().union(*(names(k) for k in CFG if k.endswith("_requirements"))),
    )
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(tree.body)
    missing = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            roots = {node.module.split(".")[0]}
        else:
            continue
        for r in roots - set(sys.stdlib_module_names) - {"cpo_nb", "__future__"}:
            if distribution.get(r, r).lower() not in (
                required if node in top else required | extra
            ):
                missing.add(r)
    assert sorted(missing) == []


# ---- code


def _definitions(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node


@every_module
def test_definitions_are_short(path):
    long = [
        f"{n.name}: {n.end_lineno - n.lineno + 1} lines"
        for n in _definitions(path)
        if n.end_lineno - n.lineno + 1 > 60
    ]
    assert long == [], "a definition of more than 60 lines holds more than one idea"


@every_notebook
def test_exported_cells_are_short(path):
    "Lists of imported names aside."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    exported = [_source(c) for c in cells if re.match(r"#\s*\|\s*export", _source(c))]
    imports = (ast.Import, ast.ImportFrom)
    code = [t for t in exported if not all(isinstance(n, imports) for n in ast.parse(t).body)]
    lengths = [len(text.splitlines()) for text in code]
    assert max(lengths, default=0) <= 60, "a cell of more than 60 lines holds more than one idea"


CODE = ("nbs", "tests", "tools", "docs", "setup.py")


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("check", *CODE, "cpo_nb"), id="lint"),
        pytest.param(("format", "--check", *CODE), id="format"),
    ],
)
def test_ruff_is_content(command):
    "Short lines, one statement a line, no unused names; see pyproject.toml."
    ruff = [sys.executable, "-m", "ruff", *command, "--no-cache"]
    done = subprocess.run(ruff, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@every_module
def test_public_parameters_are_explained(path):
    assert undocumented(path) == [], "docments: `x: int,  # what it means`"


@every_module
def test_public_definitions_have_docstrings(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [
        n
        for n in tree.body
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and not n.name.startswith("_")
    ]
    assert [n.name for n in public if not ast.get_docstring(n)] == []


@every_module
def test_names_are_ascii(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)
    }
    assert sorted(n for n in names | {d.name for d in _definitions(path)} if not n.isascii()) == []


def _dotted(node) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(code: str, imports: bool = True) -> list[str]:
    "Ways to run foreign code by reading a file: pickles, torch files read in full, YAML with tags."
    modules = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    yaml_loads = {"yaml.load", "yaml.load_all"}
    unsafe_calls = {
        f"yaml.{n}" for n in ("unsafe_load", "unsafe_load_all", "full_load", "full_load_all")
    } | {"torch.save"}
    tree, found = ast.parse(code), []
    safe = {
        "SafeLoader",
        "yaml.SafeLoader",
        "yaml.CSafeLoader",
    }  # and what is derived from them, to read more strictly
    safe |= {
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ClassDef)
        and n.bases
        and all(re.search(r"\bC?SafeLoader\b", ast.unparse(b)) for b in n.bases)
    }
    for node in ast.walk(tree):
        at = f"line {getattr(node, 'lineno', 0)}"
        if imports and isinstance(node, ast.Import):
            found += [
                f"{at}: import {a.name}" for a in node.names if a.name.split(".")[0] in modules
            ]
        if (
            imports
            and isinstance(node, ast.ImportFrom)
            and (node.module or "").split(".")[0] in modules
        ):
            found.append(f"{at}: from {node.module}")
        if not isinstance(node, ast.Call):
            continue
        name, given = (
            _dotted(node.func),
            {k.arg: getattr(k.value, "value", None) for k in node.keywords},
        )
        if name == "torch.load" and given.get("weights_only") is not True:
            found.append(f"{at}: torch.load without weights_only=True")
        loader = next(
            (k.value for k in node.keywords if k.arg == "Loader"),
            node.args[1] if len(node.args) > 1 else None,
        )
        if name in yaml_loads and _dotted(loader) not in safe:
            found.append(f"{at}: {name} without a SafeLoader")
        if name in unsafe_calls or name.endswith((".read_pickle", ".to_pickle")):
            found.append(f"{at}: {name}")
        if given.get("allow_pickle") is True or given.get("trust_remote_code") is True:
            found.append(f"{at}: {name} lets foreign code in")
    return found


@pytest.mark.parametrize(
    "path",
    [*sorted(LIB.rglob("*.py")), *sorted((ROOT / "tools").rglob("*.py")), ROOT / "setup.py"],
    ids=lambda p: p.name,
)
def test_no_unsafe_reading(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


@every_notebook
def test_no_unsafe_reading_in_notebooks(path):
    code = "\n".join(
        _python(_source(c))
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
        if c["cell_type"] == "code"
    )
    # an example may show that a pickle is refused: imports are left to the modules' test
    assert unsafe(code, imports=False) == []


UNSAFE = [
    "import pickle",
    "torch.load(f)",
    "torch.load(f, weights_only=False)",
    "yaml.load(f)",
    "np.load(f, allow_pickle=True)",
    "class L(yaml.Loader): ...\nyaml.load(f, L)",
    "yaml.load(f, yaml.Loader)",
]
SAFE = [
    "torch.load(f, weights_only=True)",
    "yaml.safe_load(f)",
    "np.load(f)",
    "yaml.load(f, yaml.SafeLoader)",
    "class L(yaml.SafeLoader): ...\nyaml.load(f, Loader=L)",
]


@pytest.mark.parametrize("code", UNSAFE)
def test_unsafe_code_is_found(code):
    assert len(unsafe(code)) == 1


@pytest.mark.parametrize("code", SAFE)
def test_safe_code_passes(code):
    assert unsafe(code) == []


# ---- English

RETIRED = {  # what is no longer said: what is said instead; the whole list is in CONTRIBUTING.md
    r"pictures?": "image",
    r"strong points?": "positive attributes",
    r"told of": "conditioned on",
    r"to mend it": "Hint:",
    r"rides? on": "stacked on",
    r"laid aside": "offloaded",
    r"at hand": "loaded",
    r"made again": "recomputed",
    r"by heart": "memorised",
    r"reckoned": "computed",
    r"condition of rest": "stationarity condition",
    r"KL leash": "KL penalty",
    r"asks no auxiliary": "does not use an auxiliary model",
    r"by eye": "samples are not cherry-picked",
}
RETIRED_WORDS = re.compile(rf"\b({'|'.join(RETIRED)})\b", re.IGNORECASE)


def _prose(code: str) -> str:
    "Comments, docstrings and messages of Python code: what has a space in it."
    tokens = tokenize.generate_tokens(io.StringIO(_python(code)).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return "\n".join(t.string for t in tokens if t.type in kinds and " " in t.string)


def _words_of(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    if path.suffix == ".py":
        return _prose(text)
    cells = json.loads(text)["cells"]
    return "\n".join(
        _source(c) if c["cell_type"] == "markdown" else _prose(_source(c)) for c in cells
    )


WRITTEN = [*ALL, *MODULES, *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: p.name)
def test_retired_words_are_not_used(path):
    found = {m[0] for m in RETIRED_WORDS.finditer(_words_of(path))}
    assert sorted(found) == [], "see the glossary in CONTRIBUTING.md"


# ---- what ships


def test_shipped_data_is_small_and_plain():
    files = [p for p in (ROOT / "data").rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 40 * 2**20
    assert [
        p.name
        for p in files
        if p.suffix in (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".bin", ".joblib")
    ] == [], "weights are safetensors"


def test_no_path_of_a_machine():
    texts = [
        *ALL,
        *ROOT.glob("*.md"),
        *MODULES,
        *(
            p
            for d in ("data", "figures")
            for p in (ROOT / d).rglob("*")
            if p.suffix in (".json", ".jsonl", ".yaml", ".md", ".csv", ".svg", ".txt")
        ),
    ]
    found = {
        p.relative_to(ROOT).as_posix(): m[0]
        for p in texts
        if (m := MACHINE_PATH.search(p.read_text(encoding="utf-8")))
    }
    assert found == {}


def test_yaml_and_json_can_be_read():
    for p in (ROOT / "data").rglob("*"):
        if p.suffix in (".yaml", ".yml"):
            yaml.safe_load(p.read_text(encoding="utf-8"))
        if p.suffix == ".json":
            json.loads(
                p.read_text(encoding="utf-8"),
                parse_constant=lambda c: pytest.fail(f"{p.name}: {c} is not JSON"),
            )


def test_readme_is_made_from_the_index():
    assert INDEX.is_file(), "nbs/index.ipynb is missing"
    assert (ROOT / "README.md").is_file(), "run `make readme`"
    assert (ROOT / "README.md").read_text(encoding="utf-8") == readme(), "run `make readme`"


def test_version_stands_in_one_place():
    assert f'__version__ = "{CFG["version"]}"' in (LIB / "__init__.py").read_text(encoding="utf-8")


def test_environment_is_pinned():
    lines = [
        l
        for l in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
        if l and not l.startswith("#")
    ]
    assert [l for l in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", l)] == []
    pinned = dict(l.split("==") for l in lines)
    assert "torch" in pinned
    needed = {
        re.match(r"[A-Za-z0-9_-]+", r)[0].lower()
        for k in ("requirements", "dev_requirements")
        for r in CFG[k].split()
    }
    assert sorted(needed - pinned.keys()) == []
    assert not [r for r in CFG["requirements"].split() if "==" in r or "<" in r], (
        "the package itself has lower bounds only"
    )
