"""What the tests of lost work start, once: it imports everything, then forks for each order.

A start then costs no imports. An order is one line of JSON on stdin: `what` (a training of
`train_tiny`, or "cli"), `args`, `env`, `log` (where its output goes), `fault`, and `after`
(seconds of CPU time until it is killed). The answer is the exit code (negative for a signal)
and the CPU time that it took.

A fault is [action, pattern, n], for the n-th file whose path matches. "half" writes half of a
safetensors file and is killed; "before" and "after" are killed at its rename, and there
"interrupt" is what Ctrl-C sends; "full" finds no space left from then on; "line" is killed in the
middle of the n-th line of metrics; "limit" may write no file above n bytes.
"""

import builtins, json, os, re, signal, sys, traceback
from pathlib import Path

import numpy as np
import safetensors, safetensors.torch
import torch

from cpo_nb import cache, collapse, runs, training
from cpo_nb.align import AlignConfig, align
from cpo_nb.atelier import sample_scenes
from cpo_nb.painter import painted_columns
from cpo_nb.backbone import load_backbone
from cpo_nb.bank import BankConfig
from cpo_nb.core import processes, torch_rng
from cpo_nb.criteria import load_criteria
from cpo_nb.sft import SftConfig, sft
from cpo_nb.batches import training_set
from cpo_nb.training import TrainConfig


def train_tiny(kind: str, folder: Path) -> None:
    """Train as `kind` says: sft or cpo, live or with a bank, in fp32 or bf16.

    Everything is stored that can be. `folder` holds the pipeline `sd`, and gets `run`, `stores`.
    """
    torch.set_num_threads(1)
    method, precision = kind.split("-")
    bb = load_backbone(folder / "sd", resolution=64)
    stores = folder / "stores"
    data = training_set(painted_columns(sample_scenes(24, 0)), bb, folder=stores)
    loop = TrainConfig(steps=12, batch_size=4, lr=2e-2, warmup=2, checkpoint_every=3)
    kw = dict(validation=data[np.arange(4)], prompts_folder=stores)
    if method == "sft":
        sft(
            bb,
            data,
            load_criteria("painting"),
            folder / "run",
            SftConfig(loop, rank=2, precision=precision, prompt_variants=2),
            **kw,
        )
    else:
        bb.add_adapter("auxiliary", rank=2, seed=1)
        for i, p in enumerate(bb.adapter_parameters("auxiliary").values()):
            p.data += 0.05 * torch.randn(p.shape, generator=torch_rng(i, "aux"))
        align(
            bb,
            data,
            load_criteria("painting"),
            folder / "run",
            AlignConfig(loop, "cpo", rank=2, precision=precision),
            bank=BankConfig(2, within=stores / "banks", batch_size=4) if method == "bank" else None,
            **kw,
        )


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install(action: str, pattern: str, n: int) -> None:
    "Let a fault happen in this process."
    seen = 0

    def due(path) -> bool:
        nonlocal seen
        seen += bool(re.search(pattern, str(path)))
        return seen == n

    real_save, real_replace = safetensors.torch.save_file, os.replace

    def save_file(tensors, filename, metadata=None):
        if action == "half" and due(filename):
            data = safetensors.torch.save(tensors, metadata)
            half = data[: len(data) // 2]
            Path(filename).write_bytes(half)
            # safetensors has a temporary file of its own
            (Path(filename).parent / ".tmpab12CD").write_bytes(half)
            die()
        if action == "full" and (due(filename) or seen > n):
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        return real_save(tensors, filename, metadata)

    def replace(src, dst):
        hit = action in ("before", "after", "interrupt") and due(dst)
        if hit and action == "before":
            die()
        real_replace(src, dst)
        if hit and action == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif hit:
            die()

    class Cut:  # a log whose n-th line is not finished
        def __init__(self, file):
            self.file, self.lines = file, 0

        def write(self, text):
            self.lines += 1
            if self.lines == n:
                self.file.write(text[: len(text) // 2])
                self.file.flush()
                die()
            self.file.write(text)

        def __getattr__(self, name):
            return getattr(self.file, name)

    if action == "limit":
        import resource

        return resource.setrlimit(resource.RLIMIT_FSIZE, (n, n))
    for module in (runs, cache, collapse, safetensors.torch):
        module.save_file = save_file
    os.replace = replace
    if action == "line":
        training.open = lambda path, *a, **kw: Cut(builtins.open(path, *a, **kw))


def small_chunks() -> None:  # so that a dozen images make several
    fill = cache.Store.fill
    cache.Store.fill = lambda self, keys, make, chunk=8, desc="encode", together=False: fill(
        self, keys, make, min(chunk, 8), desc, together
    )


def obey(what: str, args: list[str]) -> int:
    if what == "cli":
        from cpo_nb.cli import app

        try:
            app(args, prog_name="cpo")
        except SystemExit as e:
            return e.code or 0
        return 0
    train_tiny(what, Path(args[0]))
    return 0


def serve() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                out = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.environ.update(order.get("env") or {})
                small_chunks()
                if order.get("after"):
                    # no handler: as sudden as SIGKILL, and the same on a busy machine
                    signal.setitimer(signal.ITIMER_PROF, order["after"])
                if order.get("fault"):
                    install(*order["fault"])
                code = obey(order["what"], order["args"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status, used = os.wait4(pid, 0)
        print(
            json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]),
            flush=True,
        )


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:  # started by `accelerate launch`, or alone
        small_chunks()
        if processes().rank == 0 and "FAULT" in os.environ:
            install(*json.loads(os.environ["FAULT"]))
        train_tiny(sys.argv[1], Path(sys.argv[2]))
