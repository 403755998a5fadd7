"""Execute notebooks in place and keep their outputs, tidied.

usage: python tools/run_notebooks.py [--scale tiny] [NAME...]   e.g. 20_loss 25_align; default: all

Each notebook runs in a kernel of its own, with the Python that runs this file. Below `full` scale
nothing outside this machine can be reached (see offline/). A notebook that fails, or whose outputs
may not be committed, is left as it was. The tests call `execute`
and `output_problems` from here, so they see what a reader gets.
"""

import argparse, asyncio, contextlib, json, os, re, shutil, signal, sys, tempfile, time
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbdev.clean import clean_nb

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MAX_BYTES = 300 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PATH = re.compile(
    r"(?<![\w.~:/-])(/(?:root|home|Users|work|tmp|var|usr|opt|mnt|private|data)/[^\s'\"<>:,)\]]*)"
    r"|\b[A-Z]:\\{1,2}Users\b"
)
_TEMP = re.compile(r"\bTMP/tmp[a-z0-9_]{8}\b")  # tempfile's random names
_SPEED = re.compile(r"\b\d+(?:\.\d+)?\s?(?:it/s|s/it)\b")


class NotebookError(Exception):
    "A notebook did not run through: says which cell, with its source and the traceback."


def notebooks(names=()) -> list[Path]:
    "Notebooks by name (with or without .ipynb), or all; a leading underscore marks a draft."
    if not names:
        return sorted(p for p in NBS.glob("*.ipynb") if not p.name.startswith("_"))
    found = [NBS / f"{Path(n).stem}.ipynb" for n in names]
    if missing := [p.name for p in found if not p.is_file()]:
        raise SystemExit(f"no such notebook in nbs/: {', '.join(missing)}")
    return found


class _Kernel(AsyncKernelManager):
    "A kernel of the running Python, over sockets in a folder instead of ports."

    @property
    def kernel_spec(self):
        quiet = "--HistoryManager.enabled=False"
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", quiet]
        return KernelSpec(argv=argv, display_name="python3", language="python")


def environment(
    tmp: Path,  # a folder that exists for this run only
    scale: str,  # smoke, tiny or full
    **extra,  # further variables
) -> dict[str, str]:
    "A kernel's variables: nothing of the user's profile, nothing that varies, no network."
    env = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("PYTEST", "JPY_", "IPYTHON", "MPLBACKEND"))
    }
    for name in ("ipython", "runtime", "tmp"):
        (tmp / name).mkdir(parents=True, exist_ok=True)
    env |= dict(
        CPO_SCALE=scale,
        PYTHONHASHSEED="0",
        PYTHONUNBUFFERED="1",
        PYTHONDONTWRITEBYTECODE="1",
        TZ="UTC",
        TQDM_DISABLE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_DATASETS_DISABLE_PROGRESS_BARS="1",
        NO_COLOR="1",
        COLUMNS="120",
        IPYTHONDIR=str(tmp / "ipython"),
        JUPYTER_RUNTIME_DIR=str(tmp / "runtime"),
        TMPDIR=str(tmp / "tmp"),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "")]),
    )
    env["PYTHONPATH"] = os.pathsep.join(p for p in (str(ROOT), env.get("PYTHONPATH")) if p)
    if scale != "full":
        env |= offline(tmp, env["PYTHONPATH"])
    return env | {k: str(v) for k, v in extra.items()}


def offline(tmp: Path, pythonpath: str = "") -> dict[str, str]:
    "Variables under which no process reaches another machine, and hub clients say so at once."
    nowhere = "http://127.0.0.1:9"  # discard port: for the clients that are not Python inside
    return dict(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HOME=str(tmp / "hf"),
        TORCH_HOME=str(tmp / "torch"),
        PYTHONPATH=os.pathsep.join(p for p in (str(ROOT / "tools" / "offline"), pythonpath) if p),
        **{
            k: nowhere
            for k in (
                "http_proxy",
                "https_proxy",
                "all_proxy",
                "HTTP_PROXY",
                "HTTPS_PROXY",
                "ALL_PROXY",
            )
        },
        no_proxy="localhost,127.0.0.1,::1",
        NO_PROXY="localhost,127.0.0.1,::1",
    )


async def _run(nb, env: dict, timeout: float, tmp: Path) -> None:
    client = NotebookClient(
        nb,
        timeout=None,
        kernel_manager_class=_Kernel,
        resources=dict(metadata=dict(path=str(NBS))),
        coalesce_streams=True,
        iopub_timeout=30,
    )
    km = client.km = _Kernel(
        config=client.config,
        kernel_name="python3",
        transport="ipc",
        connection_file=str(tmp / "runtime" / "kernel.json"),
    )
    km.ip = str(tmp / "runtime" / "k")
    client.owns_km = True
    try:
        await asyncio.wait_for(client.async_execute(env=env, cwd=str(NBS)), timeout)
    finally:
        # a notebook may have started processes of its own: its whole group ends with it
        pid = getattr(km.provisioner, "pid", None)
        if km.has_kernel:
            await km.shutdown_kernel(now=True)
        if pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def execute(
    path: Path,  # the notebook
    scale: str = "tiny",  # smoke, tiny or full
    timeout: float = 3600,  # seconds for the whole notebook
    **extra,  # further environment variables, e.g. CPO_CACHE
):  # the notebook with its outputs, tidied
    "Run a notebook in its own process. Raises `NotebookError` with the failing cell and traceback."
    nb = nbformat.read(path, as_version=4)
    for c in nb.cells:
        if c.cell_type == "code":
            c.outputs, c.execution_count = [], None
    tmp = Path(
        tempfile.mkdtemp(prefix="cpo-")
    ).resolve()  # short: socket paths have a limit of 107 characters
    try:
        start, log = time.monotonic(), tmp / "network.log"
        try:
            env = environment(tmp, scale, CPO_NETWORK_LOG=log, **extra)
            asyncio.run(_run(nb, env, timeout, tmp))
        except (TimeoutError, CellExecutionError, CellTimeoutError, DeadKernelError) as e:
            # by the clock: nbclient takes a kernel that is stopped for being late for a dead one
            late = time.monotonic() - start >= timeout
            raise NotebookError(
                _explain(
                    path,
                    nb,
                    f"not finished after {timeout:.0f} s at {scale} scale" if late else str(e),
                )
            ) from None
        if log.is_file():
            hosts = ", ".join(sorted(set(log.read_text().split())))
            raise NotebookError(f"{path.name}: reached for the network: {hosts}")
        tidy(nb, tmp)
        return nb
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def _explain(path: Path, nb, what: str) -> str:
    "The last cell that was started, its source, what it printed, and what went wrong."
    started = [
        (i, c)
        for i, c in enumerate(nb.cells)
        if c.cell_type == "code" and ("execution" in c.metadata or c.outputs)
    ]
    if not started:
        return f"{path.name}: {what}"
    i, cell = started[-1]
    said = "".join(o.text for o in cell.outputs if o.output_type == "stream")[-2000:]
    trace = ["\n".join(o.traceback) for o in cell.outputs if o.output_type == "error"]
    text = [
        f"{path.name}, cell {i} (id {cell.get('id')}):",
        cell.source,
        "-" * 40,
        *([said.rstrip(), "-" * 40] if said else []),
        *(trace or [what]),
    ]
    return _ANSI.sub("", "\n".join(text))


def _texts(cell):
    "Every text of a cell's outputs as (holder, key)."
    for o in cell.get("outputs", []):
        if o.output_type == "stream":
            yield o, "text"
        for mime in o.get("data", {}):
            if mime.startswith("text/") or mime == "image/svg+xml":
                yield o.data, mime


def tidy(nb, tmp: Path | None = None) -> None:
    "What nbdev_clean does, and more: no stderr, no colours, no paths of this machine."
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        cell.outputs = [
            o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")
        ]
        for holder, key in _texts(cell):
            text = _ANSI.sub("", holder[key])
            for folder, name in ((tmp and tmp / "tmp", "TMP"), (tmp, "TMP"), (ROOT, "")):
                if folder:
                    text = text.replace(f"{folder}/", f"{name}/" if name else "").replace(
                        str(folder), name or "."
                    )
            holder[key] = _TEMP.sub("TMP", text)
    clean_nb(nb, clean_ids=True)


def output_problems(nb) -> list[str]:
    "What must not stand in committed outputs: one line for each find."
    found = []
    for i, cell in enumerate(nb["cells"]):
        for o in cell.get("outputs", []):
            where = f"cell {i} (id {cell.get('id')})"
            if o["output_type"] == "error":
                found.append(f"{where}: an error: {o['ename']}: {o['evalue']}")
            if o.get("name") == "stderr":
                found.append(f"{where}: output on stderr")
            found += [
                f"{where}: a widget" for mime in o.get("data", {}) if "jupyter.widget" in mime
            ]
        for holder, key in _texts(nbformat.from_dict(cell)):
            text = holder[key] if isinstance(holder[key], str) else "".join(holder[key])
            if m := _PATH.search(text):
                found.append(f"{where}: an absolute path: {m.group(0)}")
            if m := _SPEED.search(text):
                found.append(f"{where}: a progress bar: {m.group(0)}")
    if nb["metadata"].get("widgets"):
        found.append("the notebook's metadata: widget state")
    return found


def as_text(nb) -> str:
    "A notebook as nbdev writes it: sorted keys, indent 1, one line at the end."
    nb = json.loads(nbformat.writes(nb))
    return json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="notebooks, e.g. 07_loss (default: all)"
    )
    parser.add_argument("--scale", default="tiny", choices=("smoke", "tiny", "full"))
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one notebook")
    parser.add_argument(
        "--keep-going", action="store_true", help="go on after a notebook that fails"
    )
    args = parser.parse_args()
    failed = []
    for path in notebooks(args.names):
        start = time.monotonic()
        print(f"{path.name} at {args.scale} scale ...", flush=True)
        try:
            nb = execute(path, args.scale, args.timeout)
            problems = output_problems(nb)
            text = as_text(nb)
            if len(text.encode()) > MAX_BYTES:
                size, limit = len(text.encode()) // 1024, MAX_BYTES // 1024
                problems.append(f"{size} KB, more than {limit}: plot fewer or smaller images")
            if problems:
                raise NotebookError(
                    f"{path.name}: the outputs cannot be kept\n"
                    + "\n".join(f"  - {p}" for p in problems)
                )
        except NotebookError as e:
            print(e, file=sys.stderr, flush=True)
            failed.append(path.name)
            if not args.keep_going:
                break
            continue
        draft = path.with_name(f".{path.name}.tmp")
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
        print(
            f"  kept, {len(text.encode()) // 1024} KB, {time.monotonic() - start:.0f} s", flush=True
        )
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
