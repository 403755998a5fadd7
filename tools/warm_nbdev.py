"""`nbdev_test` for one notebook at a time: forks of one process that holds the large libraries.

Importing torch, diffusers and transformers is half of the time of a short notebook. The tests
start one such process. Each notebook still runs in a process of its own, by nbdev's own command,
with nothing of this package imported; what it shows and what it leaves behind is handed back.

usage: python tools/warm_nbdev.py SOCKET         prints "ready", then forks on request
"""

import ast, contextlib, json, os, re, signal, socket, subprocess, sys, threading
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers.models.clip.modeling_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "peft",
    "accelerate",
    "datasets",
    "pydantic",
    "scipy.linalg",
    "matplotlib.pyplot",
    "nbdev.test",
)
_OTHERS = ("IN_TEST", "TORCHINDUCTOR_CACHE_DIR")  # variables that nbdev and torch set themselves
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    "What became of a notebook."

    passed: bool
    said: str  # what nbdev_test printed: with the failing cell's number and traceback
    pid: int
    outputs: dict[str, list]  # by cell id
    left: list[str]  # what the next notebook of the same process would find changed


@contextlib.contextmanager
def warm_nbdev(
    folder: Path,  # where the socket is made; a short path
    env: dict[str, str],  # variables of the process; a notebook brings its own
):
    "Gives the path of the socket that `run_notebook` takes."
    path = folder / "warm"
    argv = [sys.executable, __file__, str(path)]
    server = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
    try:
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("the process that holds the libraries did not start")
        yield path
    finally:
        server.kill()
        server.wait()


def run_notebook(
    server: Path,  # the socket of `warm_nbdev`
    path: Path,  # the notebook
    env: dict[str, str],  # its variables
    folder: Path,  # exists; for what it prints and shows
    timeout: float,  # seconds
) -> Run:
    "Run `nbdev_test --path PATH` in a new process, and end with it all that it started."
    request = dict(path=str(path), env=env, folder=str(folder))
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(server))
        with connection.makefile("rw") as lines:
            print(json.dumps(request), file=lines, flush=True)
            try:
                answer = lines.readline()
            except TimeoutError:
                answer = ""
    said = (folder / "said.txt").read_text(errors="replace")
    if not answer:
        return Run(False, f"{said}\nit died, or was not finished after {timeout:.0f} s", 0, {}, [])
    return Run(said=said, **json.loads(answer))


def serve(path: str) -> None:
    "Import, then fork for each connection."
    for name in LIBRARIES:
        __import__(name)
    assert "cpo_nb" not in sys.modules  # a notebook imports the package anew
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks leave no zombies
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            become(connection)
        connection.close()


def become(connection: socket.socket) -> None:
    "Be the process of the notebook that the other end asks for, and end with it."
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    lines = connection.makefile("rw")
    try:
        request = json.loads(lines.readline())
        out = os.open(Path(request["folder"]) / "said.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.environ.clear()
        os.environ.update(request["env"])
        threading.Thread(target=end_with, args=(connection,), daemon=True).start()
        print(json.dumps(nbdev_test(request["path"])), file=lines, flush=True)
        signal.pause()  # the other end has read it, closes, and so ends the group
    finally:
        os.killpg(os.getpgrp(), signal.SIGKILL)


def end_with(connection: socket.socket) -> None:
    "Kill this process and what it started when the other end is gone."
    connection.recv(1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def nbdev_test(path: str) -> dict:
    "Call nbdev's command as one does by hand for one notebook; the parts of a `Run`."
    import tempfile, time
    from nbdev import test

    tempfile.tempdir = None
    time.tzset()
    outputs = {}

    class Shell(test.CaptureShell):
        "Keeps what the cells show."

        def run_all(self, nb, **kw):
            try:
                super().run_all(nb, **kw)
            finally:
                for cell in nb.cells:
                    outputs[cell.id] = cell.get("outputs") or []

    test.CaptureShell = Shell
    os.chdir(ROOT)  # where nbdev finds its settings
    before, passed = surroundings(), True
    try:
        test.nbdev_test(path=path)
    except SystemExit:
        passed = False
    sys.stdout.flush()
    after = surroundings()
    left = [f"{k}: {before.get(k)} -> {v}" for k, v in after.items() if before.get(k) != v]
    left += [f"{k}: removed" for k in before.keys() - after.keys()]
    return dict(passed=passed, pid=os.getpid(), outputs=outputs, left=left + foreign(path))


def surroundings() -> dict:
    "What notebooks of one process share, besides modules."
    import torch

    return {f"os.environ[{k!r}]": v for k, v in os.environ.items() if k not in _OTHERS} | {
        "working folder": os.getcwd(),
        "default dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "handler of SIGINT": str(signal.getsignal(signal.SIGINT)),
        "handler of SIGTERM": str(signal.getsignal(signal.SIGTERM)),
    }


def foreign(path: str) -> list[str]:
    """Names of the package that hold what the notebook defined: a registry's record, a patch.

    Aside from what its module, too, puts there when it is imported.
    """
    exported, found = exported_names(path), []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "cpo_nb":
            for key, value in vars(module).items():
                found += [f"{name}.{key}: {n}" for n in defined_here(value) - exported]
    return found


def exported_names(path: str) -> set[str]:
    "Functions and classes of a notebook's exported cells."
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    exported = [ast.parse(text) for text in sources if re.match(r"#\s*\|\s*export", text)]
    return {n.name for tree in exported for n in ast.walk(tree) if hasattr(n, "name")}


def defined_here(value, depth: int = 3) -> set[str]:
    "Names of functions and classes of the notebook in a value, or in what it holds."
    if getattr(value, "__module__", "") == "__main__":
        return {getattr(value, "__name__", type(value).__name__)}
    parts = []
    if depth == 0:
        return set()
    if isinstance(value, dict):
        parts = list(value.values())
    elif isinstance(value, (list, tuple)):  # sets remember what was checked
        parts = list(value)
    elif isinstance(value, type):
        parts = list(vars(value).values())
    elif is_dataclass(value):
        parts = [getattr(value, f.name, None) for f in fields(value)]
    return set().union(*(defined_here(p, depth - 1) for p in parts))


if __name__ == "__main__":
    serve(sys.argv[1])
