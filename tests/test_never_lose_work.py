"""Nothing is lost.

Killed at any moment, out of disk, or given bad input, a run ends with a clear message, or is
resumed where it was, bit for bit.
"""

import itertools, json, os, random, re, shlex, shutil, signal, subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from launching import environment, python
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cpo_nb.atelier import sample_scenes
from cpo_nb.painter import save_painted
from cpo_nb.backbone import load_backbone
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.cli import app
from cpo_nb.core import read_json, torch_rng
from cpo_nb.flux import tiny_flux
from cpo_nb.sd3 import tiny_sd3
from cpo_nb.sdxl import tiny_sdxl
from cpo_nb.runs import last_checkpoint, read_metrics

pytestmark = pytest.mark.xdist_group("lost-work")  # one server, and each run once
HERE = Path(__file__).resolve().parent
KINDS = ("sft-fp32", "sft-bf16", "cpo-fp32", "cpo-bf16", "bank-bf16")
ADAPTER = "adapter/pytorch_lora_weights.safetensors"


class Server:
    "Starts programs by forking one that has everything imported."

    def __init__(self, folder: Path):
        self.logs = (folder / f"log-{i}.txt" for i in itertools.count())
        self.process = subprocess.Popen(
            python(HERE / "killed_program.py", "serve"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(seed=0),
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def __call__(
        self, what: str, *args, fault=None, after: float | None = None, **env
    ) -> tuple[int, str]:  # exit code, negative for a signal; what it said
        log = next(self.logs)
        print(
            json.dumps(
                dict(
                    what=what,
                    args=[str(a) for a in args],
                    fault=fault,
                    after=after,
                    env=env,
                    log=str(log),
                )
            ),
            file=self.process.stdin,
            flush=True,
        )
        code, self.seconds = json.loads(self.process.stdout.readline())
        return code, log.read_text()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    path = tmp_path_factory.mktemp("work")
    tiny_pipeline(path / "sd")
    sc = sample_scenes(24, 0)
    sc.subject[:] %= 2
    sc.palette[:] %= 2
    save_painted(sc, path / "pictures")
    return path


@pytest.fixture(scope="module")
def start(work):
    server = Server(work)
    yield server
    server.close()


def fresh(work: Path, name: str) -> Path:
    "A folder with the pipeline, for a run of its own."
    path = work / name
    path.mkdir()
    (path / "sd").symlink_to(work / "sd")
    return path


@pytest.fixture(scope="module")
def whole(work, start):
    "Uninterrupted runs: what each ended with, and the CPU time that it took."
    made = {}

    def get(kind):
        if kind not in made:
            folder = fresh(work, f"whole-{kind}")
            code, said = start(kind, folder)
            assert code == 0, said
            made[kind] = ended(folder / "run"), start.seconds
        return made[kind]

    return get


def ended(run: Path) -> dict:
    "All that a run leaves behind, without times."
    found = {
        p: (run / p).read_bytes()
        for p in (ADAPTER, "adapter-best/pytorch_lora_weights.safetensors", "last_good.safetensors")
        if (run / p).exists()
    }
    for p in sorted(run.glob("checkpoints/*")):
        with safe_open(p, "pt") as f:
            extra = json.loads(f.metadata()["extra"])
        found[p.name] = load_file(p), {k: v for k, v in extra.items() if k != "seconds"}
    return found | dict(
        rows=[
            {k: v for k, v in json.loads(l).items() if k != "seconds"}
            for l in (run / "metrics.jsonl").read_text().splitlines()
        ]
    )


def same(a: dict, b: dict) -> None:
    assert sorted(a) == sorted(b)
    for k in a:
        if k.startswith("step-"):
            assert a[k][1] == b[k][1] and sorted(a[k][0]) == sorted(b[k][0])
            for n in a[k][0]:
                assert torch.equal(a[k][0][n], b[k][0][n]), f"{k}: {n}"
        else:
            assert a[k] == b[k], k


def leftovers(*folders: Path) -> list[str]:
    return [str(p) for f in folders for p in f.rglob("*") if re.search(r"\.tmp($|\w{6}$)", p.name)]


def sound(folder: Path, want: dict) -> None:
    "A run ended as the uninterrupted one did, and left nothing half-made."
    run = folder / "run"
    assert [r["step"] for r in read_metrics(run)] == list(range(1, 13))
    same(ended(run), want)
    step, path = last_checkpoint(run)
    assert step == 12
    with safe_open(path, "pt") as f:
        best = json.loads(f.metadata()["extra"])["best"]
    assert (run / "checkpoints" / f"step-{best['step']:07d}.safetensors").is_file()
    assert leftovers(folder) == []


def test_a_run_is_worth_comparing(whole):
    "Averages, moments, scores and a best checkpoint are all there, and the kinds differ."
    for kind in KINDS:
        found, _ = whole(kind)
        tensors, extra = found["step-0000012.safetensors"]
        kinds_of_tensor = {k.split("/")[0] for k in tensors}
        assert kinds_of_tensor == {"param", "ema", "opt.step", "opt.exp_avg", "opt.exp_avg_sq"}
        assert extra["best"]["score"] > 0
        raw = {k[6:]: v for k, v in tensors.items() if k.startswith("param/")}
        assert any(not torch.equal(v, tensors[f"ema/{k}"]) for k, v in raw.items())
    assert len({whole(kind)[0][ADAPTER] for kind in KINDS}) == len(KINDS)


def explained() -> dict[str, set[str]]:
    "What docs/logged.md names in the first column of a section's first table, by heading."
    text = (HERE.parent / "docs" / "logged.md").read_text(encoding="utf-8")
    parts = [part.split("\n", 1) for part in text.split("\n## ")[1:]]
    tables = {head: re.search(r"(?:^\|.*\n)+", rest, re.M) for head, rest in parts}
    return {head: set(re.findall(r"^\| `([^`]+)`", t[0], re.M)) for head, t in tables.items() if t}


def test_the_log_holds_the_columns_that_are_explained(whole):
    "The same ones in each line; stage 2 begins where the reference is."
    both, second = (explained()[f"Columns of {which}"] for which in ("every run", "stage 2"))
    for row in whole("sft-fp32")[0]["rows"]:
        assert row.keys() == both - {"seconds"}
    rows = whole("cpo-fp32")[0]["rows"]
    for row in rows:
        assert row.keys() == (both | second) - {"seconds"}
    assert [rows[0][k] for k in ("d_w", "d_l", "margin", "accuracy")] == [0] * 4
    assert round(rows[0]["loss"], 3) == 0.693


CHAINS = {  # what each start of a run is killed in the middle of, one after the other
    "sft-fp32": [
        ["half", r"latents-\w+/\.", 2],
        ["before", r"run/config\.json$", 1],
        ["half", r"step-0000003", 1],
        ["before", r"step-0000006", 1],
        ["half", r"pytorch_lora", 1],
    ],
    "sft-bf16": [
        ["half", r"prompts-\w+/\.", 3],
        ["line", "", 5],
        ["after", r"step-0000009", 1],
        ["after", r"step-0000012", 1],
    ],
    "cpo-fp32": [
        ["half", r"last_good", 4],
        ["half", r"step-0000009", 1],
        ["before", r"metrics\.jsonl$", 1],
        ["after", r"run/adapter$", 1],
    ],
    "cpo-bf16": [
        ["after", r"prompts-\w+/", 5],
        ["line", "", 8],
        ["after", r"step-0000009", 1],
        ["before", r"run/adapter$", 1],
    ],
    "bank-bf16": [
        ["before", r"bank\.json$", 1],
        ["half", r"records/\.", 2],
        ["after", r"records/", 2],
        ["half", r"step-0000006", 1],
        ["line", "", 4],
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_killed_in_the_middle_of_everything(work, start, whole, kind):
    folder = fresh(work, f"chain-{kind}")
    for fault in CHAINS[kind]:
        code, said = start(kind, folder, fault=fault)
        assert code == -signal.SIGKILL, f"{fault}: it was not killed: {said[-2000:]}"
    code, said = start(kind, folder)
    assert code == 0, said[-2000:]
    sound(folder, whole(kind)[0])


@pytest.mark.parametrize("kind", ("sft-bf16", "cpo-fp32"))
def test_killed_at_random_moments(work, start, whole, kind):
    "Over and over, by the clock of the CPU, each time the same command."
    folder, (want, seconds), rng, deaths = (
        fresh(work, f"moments-{kind}"),
        whole(kind),
        random.Random(3),
        0,
    )
    for _ in range(3):
        code, said = start(kind, folder, after=rng.uniform(0.25, 0.7) * seconds)
        assert code in (0, -signal.SIGPROF), said[-2000:]
        deaths += code != 0
    code, said = start(kind, folder)
    assert code == 0, said[-2000:]
    assert deaths >= 2
    sound(folder, want)


def test_another_process_makes_the_same_bytes(work, whole):
    "With another hash seed: nothing in the adapter's file depends on the order of a set."
    folder = fresh(work, "alone")
    done = subprocess.run(
        python(HERE / "killed_program.py", "cpo-bf16", folder),
        env=environment(seed=7),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sound(folder, whole("cpo-bf16")[0])


def test_two_processes_of_which_one_is_killed(work, whole):
    folder = fresh(work, "two")
    command = python(HERE / "killed_program.py", "sft-fp32", folder, config="cpu-two")
    done = subprocess.run(
        command,
        env=environment() | dict(FAULT=json.dumps(["half", "step-0000009", 1])),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    last = last_checkpoint(folder / "run")
    assert last and last[0] == 6, done.stderr[-3000:]
    assert leftovers(folder)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [r["step"] for r in read_metrics(folder / "run")] == list(range(1, 13))
    assert leftovers(folder) == []
    bb = load_backbone(work / "sd", resolution=64)
    bb.add_adapter("auxiliary", 2, seed=0)
    began = bb.adapter_parameters("auxiliary")
    one, two = (
        torch.cat([(t[f"ema/{k}"] - p.detach()).flatten() for k, p in began.items()])
        for t in (
            whole("sft-fp32")[0]["step-0000012.safetensors"][0],
            ended(folder / "run")["step-0000012.safetensors"][0],
        )
    )
    assert one.norm() > 0 and float((one - two).norm() / one.norm()) < 1e-3


# ---- each family and each method, by the command line

TINY = dict(sd=tiny_pipeline, sdxl=tiny_sdxl, sd3=tiny_sd3, flux=tiny_flux)
COMMANDS = {  # family-what: options of `cpo align`; cpo and distill take an auxiliary too
    "sd-sft": "--method sft --rows all --previews 2 --track tensorboard",
    "sdxl-dpo": "--method dpo",
    "sd3-distill": "--method distill --n-draws 2",
    "flux-cpo": "--method cpo --live",
}


def auxiliary_of(base: Path, path: Path) -> Path:
    "A LoRA for this base that changes what it predicts."
    bb = load_backbone(base, resolution=64)
    bb.add_adapter("auxiliary", rank=2, seed=1)
    for i, p in enumerate(bb.adapter_parameters("auxiliary").values()):
        p.data += 0.05 * torch.randn(p.shape, generator=torch_rng(i, "aux"))
    bb.save_adapter("auxiliary", path)
    return path


def align_command(work: Path, folder: Path, base: Path, options: str) -> str:
    "A short stage 2 on the command line."
    line = (
        f"align --data {work}/pictures --base {base} --out {folder}/run --cache {folder}/stores "
        "--steps 4 --batch-size 4 --lr 1e-3 --rank 2 --checkpoint-every 2 --precision fp32 "
        "--resolution 64 "
    )
    quiet = "" if "--previews" in options else "--previews 0 --track none "
    auxiliary = ""
    if "cpo" in options or "distill" in options:
        auxiliary = f"--auxiliary {auxiliary_of(base, folder.parent / f'aux-{base.name}')} "
    return line + quiet + auxiliary + options


@pytest.mark.parametrize("case", COMMANDS)
def test_a_command_that_is_killed_goes_on(work, start, case):
    "Killed in the middle of each of two starts; the third ends where an uninterrupted one does."
    family = case.split("-")[0]
    base, once, often = (work / f"killed-{case}" / n for n in (family, "once", "often"))
    for folder in (once, often):
        folder.mkdir(parents=True)
    if family == "sd":
        base = work / "sd"
    else:
        TINY[family](base)
    first = align_command(work, once, base, COMMANDS[case])
    code, said = start("cli", *shlex.split(first))
    assert code == 0, said[-2000:]
    again = shlex.split(first.replace(str(once), str(often)))
    for fault in (["half", "step-0000002", 1], ["before", "step-0000004", 1]):
        code, said = start("cli", *again, fault=fault)
        assert code == -signal.SIGKILL, f"{fault}: it was not killed: {said[-2000:]}"
    code, said = start("cli", *again)
    assert code == 0, said[-2000:]
    same(ended(often / "run"), ended(once / "run"))
    assert leftovers(often) == []
    both, second = (explained()[f"Columns of {which}"] for which in ("every run", "stage 2"))
    columns = both if case == "sd-sft" else both | second
    assert read_metrics(often / "run")[-1].keys() == columns
    names = {p.name + "/" * p.is_dir() for p in (often / "run").iterdir()} - {"checkpoints/"}
    assert sorted(names - explained()["Files of a run's folder"]) == []
    if "previews" in COMMANDS[case]:
        images = [sorted(p.name for p in f.rglob("*.png")) for f in (once, often)]
        assert images[0] == images[1] and images[0]


def results_of(folder: Path) -> dict[str, dict]:
    "Result files of a grid by name, without what differs from start to start."
    files = sorted((folder / "results/ledger/smoke").glob("*.json.gz"))
    timed = ("time", "wall", "seconds", "judging", "parts_seconds", "commit")
    return {p.name: {k: v for k, v in read_json(p).items() if k not in timed} for p in files}


def test_an_experiment_that_is_killed_goes_on(work, start):
    "Killed in its training, after that of its start, and before its result is in place."
    line = "experiment smoke --scale smoke --only sft-dpo-beta50"
    folders = {name: work / f"grid-{name}" for name in ("once", "often")}
    envs = {n: dict(CPO_RESULTS=f"{f}/results", CPO_RUNS=f"{f}/runs") for n, f in folders.items()}
    code, said = start("cli", *line.split(), **envs["once"])
    assert code == 0, said[-2000:]
    for fault in (["half", r"dpo-.*step-0000003", 1], ["before", r"sft-dpo.*\.json", 1]):
        code, said = start("cli", *line.split(), fault=fault, **envs["often"])
        assert code == -signal.SIGKILL, f"{fault}: it was not killed: {said[-2000:]}"
    code, said = start("cli", *line.split(), **envs["often"])
    assert code == 0, said[-2000:]
    once, often = (results_of(f) for f in folders.values())
    assert len(once) == 1 and once == often
    assert leftovers(folders["often"]) == []


def test_a_collapsing_run_gives_back_its_last_good_weights(work, start):
    "On the command line: exit code 3, and an adapter from before the weights went astray."
    folder = work / "wild"
    folder.mkdir()
    wild = "--live --stabilize none --collapse 0.05 --lr 0.01"
    line = align_command(work, folder, work / "sd", f"--method cpo {wild}").replace("--lr 1e-3", "")
    code, said = start("cli", *shlex.split(line.replace("--steps 4", "--steps 40")))
    assert code == 3, said[-2000:]
    rows = read_metrics(folder / "run")
    assert 3 < len(rows) < 40
    good = load_file(folder / "run" / "last_good.safetensors")
    with safe_open(folder / "run" / "last_good.safetensors", "pt") as f:
        assert 0 < int(f.metadata()["step"]) < len(rows)
    bb = load_backbone(work / "sd", resolution=64)
    bb.load_adapter(folder / "run" / "adapter", "policy")
    given = bb.adapter_parameters("policy")
    assert given.keys() == good.keys()
    assert all(torch.allclose(given[k], good[k], atol=1e-6) for k in good)


def test_an_interrupted_command_goes_on(work, start, trained):
    "Ctrl-C once: it saves and ends with exit code 130; the same command ends as if nothing was."
    folder = work / "interrupted"
    folder.mkdir()
    words = shlex.split(command(work, folder))
    code, said = start("cli", *words, fault=["interrupt", "step-0000002", 1])
    assert code == 130, said[-2000:]
    assert last_checkpoint(folder / "run")[0] < 4
    code, said = start("cli", *words)
    assert code == 0, said[-2000:]
    found, want = ended(folder / "run"), ended(trained / "run")
    kept = {k for k in want if not k.startswith("step-")} | {"step-0000004.safetensors"}
    same({k: found[k] for k in kept}, {k: want[k] for k in kept})  # one checkpoint more was saved


# ---- a full disk


def command(work: Path, folder: Path, more: str = "") -> str:
    "A short stage 1 on the command line."
    return (
        f"sft --data {work}/pictures --base {work}/sd --out {folder}/run --cache {folder}/stores "
        "--steps 4 --rank 2 --checkpoint-every 2 --previews 0 --track none --precision fp32 " + more
    )


def message(said: str) -> str:
    "The one message that a command ended with."
    assert "Traceback" not in said, said
    assert said.count("cpo: ") == 1, said
    return " ".join(said[said.index("cpo: ") :].split())


@pytest.fixture(scope="module")
def trained(work, start):
    "A run of the command line, uninterrupted."
    (work / "trained").mkdir()
    code, said = start("cli", *shlex.split(command(work, work / "trained")))
    assert code == 0, said
    return work / "trained"


FULL = {  # name: (fault, what the message says, updates that the last checkpoint holds)
    "latents": (["full", r"latents-\w+/", 2], "no space left", None),
    "prompts": (["full", r"prompts-\w+/", 1], "no space left", None),
    "first-checkpoint": (["full", "step-0000002", 1], "no space left", None),
    "second-checkpoint": (["full", "step-0000004", 1], "the last checkpoint is intact", 2),
    "adapter": (["full", "pytorch_lora", 1], "no space left", 4),
    "limit": (["limit", "", None], ".safetensors: File too large", None),
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk(work, start, trained, case):
    folder = work / f"full-{case}"
    folder.mkdir()
    fault, says, done = FULL[case]
    words = shlex.split(command(work, folder))
    if case == "limit":  # by the operating system itself
        whole = (trained / "run" / "checkpoints" / "step-0000002.safetensors").stat().st_size
        fault = ["limit", "", int(0.9 * whole)]
    code, said = start("cli", *words, fault=fault)
    assert code == 2, said
    assert says in message(said)
    assert leftovers(folder) == []
    assert not (folder / "run" / "adapter").exists()
    last = last_checkpoint(folder / "run")
    assert (last and last[0]) == done
    for p in folder.rglob("*.safetensors"):
        load_file(p)  # what is there is whole

    if case == "second-checkpoint":  # once as a user starts it
        again = python("-m", "cpo_nb.cli", *words)
        r = subprocess.run(again, env=environment(3), capture_output=True, text=True)
        code, said = r.returncode, r.stdout + r.stderr
    else:
        code, said = start("cli", *words)
    assert code == 0, said[-2000:]
    same(ended(folder / "run"), ended(trained / "run"))


# ---- mistakes, each found before it costs anything


def cpo(line: str) -> tuple[int, str]:
    "Run a command line; its exit code, and what it printed."
    r = CliRunner().invoke(app, shlex.split(line), prog_name="cpo")
    if r.exception is not None and not isinstance(r.exception, SystemExit):
        raise r.exception
    return r.exit_code, r.output


def refused(line: str, says: str | list[str] = (), out: Path | None = None) -> str:
    "A command that ends with one message, exit code 2 and nothing left behind."
    code, said = cpo(line)
    assert code == 2, f"exit code {code}: {said}"
    assert "Traceback" not in said, said
    assert "Hint:" in said or "Usage:" in said, said
    text = " ".join(said.split())
    for s in [says] if isinstance(says, str) else says:
        assert s in text, f"{s!r} is not in: {text}"
    if out is not None:
        assert not out.exists(), sorted(out.rglob("*"))
    return text


@pytest.fixture
def nothing_is_read(monkeypatch):
    "Neither data nor weights may be read."
    import cpo_nb.job, diffusers

    def early(*a, **kw):
        raise AssertionError("it was not noticed before")

    monkeypatch.setattr(cpo_nb.job, "load_paintings", early)
    for name in ("StableDiffusionPipeline", "StableDiffusion3Pipeline", "FluxPipeline"):
        monkeypatch.setattr(getattr(diffusers, name), "from_pretrained", early)


def disk(monkeypatch, free: int, where: str = "") -> None:
    "Little space in every folder whose path ends so, and much in the others."

    def usage(path):
        left = free if str(path).endswith(where) else 10**9
        return SimpleNamespace(total=10**9, used=10**9 - left, free=left)

    monkeypatch.setattr(shutil, "disk_usage", usage)


@pytest.mark.parametrize(
    "free, where, says",
    [
        pytest.param(10_000, "stores", "records to be kept there (encode images)", id="images"),
        pytest.param(100_000, "stores", "records to be kept there (encode prompts)", id="prompts"),
        pytest.param(100_000, "", "the checkpoints of this run", id="checkpoints"),
    ],
)
def test_a_disk_that_is_too_small_is_noticed_before(
    work, trained, tmp_path, monkeypatch, free, where, says
):
    import cpo_nb.training

    def never(*a, **kw):
        raise AssertionError("training has begun")

    monkeypatch.setattr(cpo_nb.training, "accumulate_gradients", never)
    (tmp_path / "stores").mkdir()
    disk(monkeypatch, free, where)
    text = refused(
        command(work, tmp_path, "--steps 20"),  # ten checkpoints in all, more than are kept
        says=[says, "the disk is too small for", f"{free / 1024:.1f} KiB are free"],
        out=tmp_path / "run",
    )
    number, unit = re.search(r"they need ([\d.]+) (KiB|MiB)", text).groups()
    need = float(number) * dict(KiB=2**10, MiB=2**20)[unit]
    tensors, extra = ended(trained / "run")["step-0000002.safetensors"]
    if not where:  # two that stay, the one being written, and the best
        files = 3 + ("best" in extra)
        assert need == pytest.approx(files * sum(v.nbytes for v in tensors.values()), rel=0.02)
    elif "images" in says:  # latents of 4 x 16 x 16 halves
        records = int(re.search(r"for (\d+) records", text)[1])
        assert need == pytest.approx(2048 * records, rel=0.01)


def test_a_finished_run_needs_no_room(work, trained, monkeypatch):
    disk(monkeypatch, 0)
    assert cpo(command(work, trained))[0] == 0


UNET = "unet/diffusion_pytorch_model.safetensors"


def _remove(name: str):
    def damage(pipe: Path) -> None:
        path = pipe / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def _write(name: str, text: str):
    return lambda pipe: (pipe / name).write_text(text)


def _rename(name: str, new: str):
    return lambda pipe: (pipe / name).rename((pipe / name).with_name(new))


def _cut(pipe: Path) -> None:
    (pipe / UNET).write_bytes((pipe / UNET).read_bytes()[:-100])


def _no_tokens(pipe: Path) -> None:
    for p in (pipe / "tokenizer").iterdir():
        p.unlink()


def _index(change):
    "Change model_index.json."

    def damage(pipe: Path) -> None:
        index = json.loads((pipe / "model_index.json").read_text())
        (pipe / "model_index.json").write_text(json.dumps(change(index)))

    return damage


def _two(pipe: Path) -> None:
    _remove("vae")(pipe)
    _remove(UNET)(pipe)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
CUT = "unet: diffusion_pytorch_model.safetensors is damaged or cut short"
BROKEN = {  # name: (how a tiny pipeline is broken, what the message says)
    "no-vae": (_remove("vae"), "vae: its folder is missing"),
    "no-text": (_remove("text_encoder"), "text_encoder: its folder is missing"),
    "no-weights": (_remove(UNET), "unet: its weights (.safetensors) are missing"),
    "cut": (_cut, CUT),
    "empty": (_write(UNET, ""), f"{CUT}, 0 bytes"),
    "pickle": (
        _rename(UNET, "diffusion_pytorch_model.bin"),
        "unet: its weights are pickled (diffusion_pytorch_model.bin)",
    ),
    "variant": (
        _rename(UNET, "diffusion_pytorch_model.fp16.safetensors"),
        "unet: there is diffusion_pytorch_model.fp16.safetensors, but no weights under the plain",
    ),
    "pointer": (
        _write(UNET, POINTER),
        "unet: diffusion_pytorch_model.safetensors is not there itself, only its Git LFS pointer",
    ),
    "no-tokens": (_no_tokens, "tokenizer: its folder is empty"),
    "config": (_write("vae/config.json", "{"), "vae: config.json: not valid JSON"),
    "no-config": (_remove("vae/config.json"), "vae: its config.json is missing"),
    "index": (
        _write("model_index.json", '{"_class_name": '),
        "model_index.json: not valid JSON",
    ),
    "list": (_write("model_index.json", "[]"), "model_index.json: holds no object"),
    "other": (
        _index(lambda d: d | dict(_class_name="KandinskyPipeline")),
        "KandinskyPipeline' is not supported",
    ),
    "nameless": (
        _index(lambda d: {k: v for k, v in d.items() if k != "vae"}),
        "vae: model_index.json does not name it",
    ),
    "two": (
        _two,
        ["vae: its folder is missing", "unet: its weights (.safetensors) are missing"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_pipeline_that_is_not_whole(work, tmp_path, nothing_is_read, case):
    damage, says = BROKEN[case]
    base, run, seen = tmp_path / "pipe", tmp_path / "run", tmp_path / "seen"
    shutil.copytree(work / "sd", base)
    damage(base)
    text = refused(f"sft --data {work}/pictures --base {base} --out {run}", says=says, out=run)
    assert str(base) in text
    refused(f"sample --base {base} --prompt x --out {seen}", says=says, out=seen)


def test_weights_in_parts(work, tmp_path):
    base, seen = tmp_path / "pipe", tmp_path / "seen"
    shutil.copytree(work / "sd", base)
    (base / UNET).unlink()
    unet = load_backbone(work / "sd", resolution=64).denoiser
    unet.save_pretrained(base / "unet", max_shard_size="100KB")
    parts = sorted((base / "unet").glob("*-of-*.safetensors"))
    assert len(parts) > 1
    load_backbone(base, resolution=64)  # whole
    parts[-1].unlink()
    line = f"sample --base {base} --prompt x --out {seen}"
    refused(line, says=f"unet: {parts[-1].name} is missing", out=seen)


@pytest.fixture(scope="module")
def other(work):
    "A tiny FLUX and a tiny SD 3, and adapters of FLUX and of SD."
    tiny_flux(work / "flux")
    tiny_sd3(work / "sd3")
    for name in ("flux", "sd"):
        bb = load_backbone(work / name, resolution=64)
        bb.add_adapter("a", 2)
        for p in bb.adapter_parameters("a").values():
            p.data += 0.01
        bb.save_adapter("a", work / f"lora-{name}")
    return work


LORA = "pytorch_lora_weights.safetensors"
ADAPTERS = {  # name: what the message says
    "foreign": "was made for a FluxPipeline, and this base is a StableDiffusionPipeline",
    "unknown": "no LoRA weight of it belongs to this base",
    "cut": "is damaged or cut short",
    "several": "holds several files, and only one can be the LoRA: a.safetensors, b.safetensors",
    "pickle": "holds no LoRA (.safetensors)",
    "nowhere": "holds no LoRA (.safetensors): there is nothing of that name",
}


def broken_adapter(other: Path, path: Path, case: str) -> None:
    "An adapter's folder with something wrong."
    if case == "nowhere":
        return
    source = "lora-flux" if case in ("foreign", "unknown") else "lora-sd"
    shutil.copytree(other / source, path)
    if case == "unknown":
        (path / "adapter.json").unlink()  # as other trainers leave it
    if case == "cut":
        (path / LORA).write_bytes((path / LORA).read_bytes()[:500])
    if case == "several":
        shutil.copy(path / LORA, path / "a.safetensors")
        (path / LORA).rename(path / "b.safetensors")
    if case == "pickle":
        (path / LORA).rename(path / "pytorch_lora_weights.bin")


@pytest.mark.parametrize("case", ADAPTERS)
def test_an_adapter_that_cannot_be_used(other, tmp_path, case):
    path, run, seen = tmp_path / "lora", tmp_path / "run", tmp_path / "seen"
    broken_adapter(other, path, case)
    says = [ADAPTERS[case], str(path)]
    sample = f"sample --base {other}/sd --adapter {path} --prompt x --out {seen}"
    refused(sample, says=says, out=seen)
    align = (
        f"align --data {other}/pictures --base {other}/sd --auxiliary {path} --out {run} "
        f"--cache {tmp_path}/stores"
    )
    refused(align, says=says, out=run)
    assert not (tmp_path / "stores").exists()  # nothing was encoded


def test_of_several_files_the_known_name_is_taken(other, tmp_path):
    shutil.copytree(other / "lora-sd", tmp_path / "lora")
    save_file(dict(x=torch.zeros(1)), tmp_path / "lora" / "a.safetensors")
    load_backbone(other / "sd", resolution=64).load_adapter(tmp_path / "lora", "a")
    load_backbone(other / "sd", resolution=64).load_adapter(tmp_path / "lora" / LORA, "a")


@pytest.mark.parametrize(
    "family, size, says",
    [
        ("sd", 30, "multiple of 4"),
        ("sd3", 60, "multiple of 8"),
        ("sd3", 400, "positions for 192 pixels at most"),
        ("flux", 60, "multiple of 8"),
    ],
)
def test_a_resolution_that_does_not_fit(other, tmp_path, family, size, says):
    run, stores = tmp_path / "run", tmp_path / "stores"
    line = (
        f"sft --data {other}/pictures --base {other}/{family} --resolution {size} --out {run} "
        f"--cache {stores}"
    )
    refused(line, says=[f"resolution {size}", says], out=run)
    assert not stores.exists()


@pytest.mark.parametrize(
    "name",
    ["owner/name", "black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-xl-base-1.0"],
)
def test_a_hub_that_is_out_of_reach(work, tmp_path, nothing_is_read, name):
    run = tmp_path / "run"
    says = [f"{name}: neither a folder here nor a pipeline that the hub gives", "network"]
    refused(f"sft --data {work}/pictures --base {name} --out {run}", says=says, out=run)


MISTAKES = {  # option: what the message says; TMP is a folder with a file named `file`
    "--dtype int8": "--dtype",
    "--precision fp8": "--precision",
    "--cache TMP/file": "--cache TMP/file: TMP/file is a file",
    "--cache TMP/file/deeper": "TMP/file is a file",
    "--out TMP/file": "is a file",
    "--out TMP/file/run": "is a file",
    "--base SD/model_index.json": "is a file, and a pipeline is a folder",
    "--base pipe.safetensors": "no such folder",
}


@pytest.mark.parametrize("option", MISTAKES)
def test_other_mistakes(work, tmp_path, nothing_is_read, option):
    (tmp_path / "file").write_text("x")
    run = tmp_path / "run"
    good = f"sft --data {work}/pictures --base {work}/sd --out {run} "
    places = {"TMP": str(tmp_path), "SD": str(work / "sd")}
    more, says = option, MISTAKES[option]
    for name, place in places.items():
        more, says = more.replace(name, place), says.replace(name, place)
    refused(good + more, says=says, out=run)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_folder_that_cannot_be_written(work, tmp_path, nothing_is_read):
    (tmp_path / "locked").mkdir(mode=0o500)
    line = f"sft --data {work}/pictures --base {work}/sd --out {tmp_path}/locked/run"
    refused(line, says="cannot be written to")


def test_a_tree_without_the_ids_of_the_data(work, tmp_path):
    run = tmp_path / "run"
    line = f"sft --data {work}/pictures --base {work}/sd --criteria product_photography --out {run}"
    says = ["unknown id", "ids are those of the tree 'product-photography'"]
    refused(line, says=says, out=run)


def test_accepted_changes(work, trained, tmp_path):
    folder = tmp_path / "run-of-before"
    shutil.copytree(trained, folder)
    config = folder / "run" / "config.json"
    before = config.read_bytes()

    refused(command(work, folder, "--seed 1"), says=["seed: there 0, now 1", "--accept-changes"])
    refused(command(work, folder, "--rank 3"), says="rank: there 2, now 3")
    says = ["holds other parameters than this run trains", "there (2, ", "here (3, "]
    text = refused(command(work, folder, "--rank 3 --accept-changes"), says=says)
    assert "another run folder" in text
    assert config.read_bytes() == before  # a refused change is not noted
    assert cpo(command(work, folder))[0] == 0  # and the run is as good as before

    code, said = cpo(command(work, folder, "--lr 1e-3 --steps 6 --accept-changes"))
    assert code == 0, said
    changes = read_json(config)["changes"]
    assert [c["after"] for c in changes] == [4]
    assert any("lr: there 0.0001, now 0.001" in c for c in changes[0]["what"])
    assert [r["step"] for r in read_metrics(folder / "run")] == [1, 2, 3, 4, 5, 6]
