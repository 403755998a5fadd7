"""Nothing is lost: killed at any moment, out of disk, or given bad input, a run ends with a clear message or is taken up again where it was, bit for bit."""

import itertools, json, os, random, re, shutil, signal, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cpo_nb.atelier import sample_scenes
from cpo_nb.painter import paint
from cpo_nb.backbone import load_backbone
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.cli_base import app
from cpo_nb.core import read_json
from cpo_nb.dataset import save_paintings
from cpo_nb.flux import tiny_flux
from cpo_nb.sd3 import tiny_sd3
from cpo_nb.runs import last_checkpoint, read_metrics

HERE = Path(__file__).resolve().parent
KINDS = ("sft-fp32", "sft-bf16", "cpo-fp32", "cpo-bf16", "bank-bf16")
ADAPTER = "adapter/pytorch_lora_weights.safetensors"


def environment(seed: int = 0) -> dict[str, str]:  # another hash seed at every start, as a user has
    return {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "ACCELERATE", "FSDP"))
    } | dict(
        PYTHONPATH=f"{HERE.parent}{os.pathsep}{os.environ['PYTHONPATH']}",
        OMP_NUM_THREADS="1",
        TQDM_DISABLE="1",
        PYTHONHASHSEED=str(seed),
    )


class Server:
    "Starts programs by forking one that has everything imported."

    def __init__(self, folder: Path):
        self.logs = (folder / f"log-{i}.txt" for i in itertools.count())
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "killed_program.py"), "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
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
    pos, neg = sc.attributes()
    save_paintings(
        (
            dict(image=Image.fromarray(im), caption=c, positive=p, negative=n)
            for im, c, p, n in zip(paint(sc), sc.captions(), pos, neg)
        ),
        path / "pictures",
    )
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
        assert {k.split("/")[0] for k in tensors} == {
            "param",
            "ema",
            "opt.step",
            "opt.exp_avg",
            "opt.exp_avg_sq",
        } and extra["best"]["score"] > 0
        assert any(
            not torch.equal(v, tensors["ema" + k[5:]])
            for k, v in tensors.items()
            if k.startswith("param/")
        )
    assert len({whole(kind)[0][ADAPTER] for kind in KINDS}) == len(KINDS)


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
    assert code == 0 and deaths >= 2, said[-2000:]
    sound(folder, want)


def test_another_process_makes_the_same_bytes(work, whole):
    "A start of its own, with another hash seed: nothing in the adapter's file depends on the order of a set."
    folder = fresh(work, "alone")
    done = subprocess.run(
        [sys.executable, str(HERE / "killed_program.py"), "cpo-bf16", str(folder)],
        env=environment(seed=7),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    sound(folder, whole("cpo-bf16")[0])


def test_two_processes_of_which_one_is_killed(work, whole, one_launch):
    folder, config = fresh(work, "two"), HERE.parent / "configs" / "cpu-two.yaml"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--main_process_port",
        "0",
        str(HERE / "killed_program.py"),
        "sft-fp32",
        str(folder),
    ]
    done = subprocess.run(
        command,
        env=environment() | dict(FAULT=json.dumps(["half", "step-0000009", 1])),
        capture_output=True,
        text=True,
        timeout=300,
    )
    last = last_checkpoint(folder / "run")
    assert done.returncode != 0 and last and last[0] == 6 and leftovers(folder), done.stderr[-3000:]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [r["step"] for r in read_metrics(folder / "run")] == list(range(1, 13)) and leftovers(
        folder
    ) == []
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


# ---- a full disk


def command(work: Path, folder: Path, *more: str) -> list[str]:
    return [
        "sft",
        "--data",
        f"{work}/pictures",
        "--base",
        f"{work}/sd",
        "--out",
        f"{folder}/run",
        "--cache",
        f"{folder}/stores",
        "--steps",
        "4",
        "--rank",
        "2",
        "--checkpoint-every",
        "2",
        "--previews",
        "0",
        "--track",
        "none",
        "--precision",
        "fp32",
        *more,
    ]


def message(said: str) -> str:
    "The one message that a command ended with."
    assert "Traceback" not in said and said.count("cpo: ") == 1, said
    return " ".join(said[said.index("cpo: ") :].split())


@pytest.fixture(scope="module")
def trained(work, start):
    "A run of the command line, uninterrupted."
    (work / "trained").mkdir()
    code, said = start("cli", *command(work, work / "trained"))
    assert code == 0, said
    return work / "trained"


@pytest.mark.parametrize(
    "fault, says",
    [
        (["full", r"latents-\w+/", 2], "no space left"),
        (["full", r"prompts-\w+/", 1], "no space left"),
        (["full", "step-0000002", 1], "no space left"),
        (["full", "step-0000004", 1], "the last checkpoint is intact"),
        (["full", "pytorch_lora", 1], "no space left"),
        (["limit", "", None], ".safetensors: File too large"),
    ],
    ids=["latents", "prompts", "first-checkpoint", "second-checkpoint", "adapter", "limit"],
)
def test_a_full_disk(work, start, trained, fault, says, request):
    folder = work / f"full-{request.node.callspec.id}"
    folder.mkdir()
    if fault[0] == "limit":
        fault[2] = int(
            0.9 * (trained / "run" / "checkpoints" / "step-0000002.safetensors").stat().st_size
        )  # by the system itself
    code, said = start("cli", *command(work, folder), fault=fault)
    assert code == 2 and says in message(said)
    assert leftovers(folder) == [] and not (folder / "run" / "adapter").exists()
    done = last_checkpoint(folder / "run")
    assert (done and done[0]) == {"step-0000004": 2, "pytorch_lora": 4}.get(fault[1])
    for p in folder.rglob("*.safetensors"):
        load_file(p)  # what is there is whole
    if fault[1] == "step-0000004":  # once as a user starts it
        r = subprocess.run(
            [sys.executable, "-m", "cpo_nb.cli", *command(work, folder)],
            env=environment(3),
            capture_output=True,
            text=True,
        )
        code, said = r.returncode, r.stdout + r.stderr
    else:
        code, said = start("cli", *command(work, folder))
    assert code == 0, said[-2000:]
    same(ended(folder / "run"), ended(trained / "run"))


# ---- mistakes, each found before it costs anything


def cpo(*args) -> tuple[int, str]:
    r = CliRunner().invoke(app, [str(a) for a in args], prog_name="cpo")
    if r.exception is not None and not isinstance(r.exception, SystemExit):
        raise r.exception
    return r.exit_code, r.output


def refused(*args, says: str | list[str] = (), out: Path | None = None) -> str:
    "A command that ends with one message, exit code 2 and nothing left behind."
    code, said = cpo(*args)
    assert code == 2, f"exit code {code}: {said}"
    assert "Traceback" not in said and "Hint:" in said or "Usage:" in said, said
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


def disk(monkeypatch, free: int) -> None:
    monkeypatch.setattr(
        shutil,
        "disk_usage",
        lambda path: SimpleNamespace(total=10**9, used=10**9 - free, free=free),
    )


@pytest.mark.parametrize(
    "free, more, says",
    [
        (10_000, (), "records to be kept there (encode pictures)"),
        (100_000, (), "records to be kept there (encode prompts)"),
        (100_000, ("--no-cache", "--track", "auto"), "the checkpoints of this run"),
    ],
)
def test_a_disk_that_is_too_small_is_noticed_before(
    work, trained, tmp_path, monkeypatch, free, more, says
):
    import cpo_nb.training

    def never(*a, **kw):
        raise AssertionError("training has begun")

    monkeypatch.setattr(cpo_nb.training, "_gradients", never)
    disk(monkeypatch, free)
    text = refused(
        *command(work, tmp_path, *more),
        says=[says, "the disk is too small for", f"{free / 1024:.1f} KiB are free"],
        out=tmp_path / "run",
    )
    need = re.search(r"they need ([\d.]+) (KiB|MiB)", text)
    need = float(need[1]) * dict(KiB=2**10, MiB=2**20)[need[2]]
    kept, extra = ended(trained / "run")["step-0000002.safetensors"]
    if "--no-cache" in more:
        assert need == pytest.approx(
            (3 + ("best" in extra)) * sum(v.nbytes for v in kept.values()), rel=0.02
        )  # two that stay, the one being written, and the best
    elif "pictures" in says:
        assert need == pytest.approx(
            2048 * int(re.search(r"for (\d+) records", text)[1]), rel=0.01
        )  # latents of 4 x 16 x 16 halves


def test_a_finished_run_needs_no_room(work, trained, monkeypatch):
    disk(monkeypatch, 0)
    assert cpo(*command(work, trained))[0] == 0


def broken(work: Path, path: Path, what: str) -> Path:
    "A copy of the tiny pipeline with something wrong."
    shutil.copytree(work / "sd", path)
    unet = path / "unet" / "diffusion_pytorch_model.safetensors"
    index = json.loads((path / "model_index.json").read_text())
    {
        "no vae": lambda: shutil.rmtree(path / "vae"),
        "no text": lambda: shutil.rmtree(path / "text_encoder"),
        "no weights": unet.unlink,
        "cut": lambda: unet.write_bytes(unet.read_bytes()[:-100]),
        "empty": lambda: unet.write_bytes(b""),
        "pickle": lambda: unet.rename(unet.with_suffix(".bin")),
        "variant": lambda: unet.rename(unet.with_suffix("").with_suffix(".fp16.safetensors")),
        "pointer": lambda: unet.write_text(
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
        ),
        "no tokens": lambda: [p.unlink() for p in (path / "tokenizer").iterdir()],
        "config": lambda: (path / "vae" / "config.json").write_text("{"),
        "no config": (path / "vae" / "config.json").unlink,
        "index": lambda: (path / "model_index.json").write_text('{"_class_name": '),
        "list": lambda: (path / "model_index.json").write_text("[]"),
        "other": lambda: (path / "model_index.json").write_text(
            json.dumps(index | dict(_class_name="KandinskyPipeline"))
        ),
        "nameless": lambda: (path / "model_index.json").write_text(
            json.dumps({k: v for k, v in index.items() if k != "vae"})
        ),
        "two": lambda: (shutil.rmtree(path / "vae"), unet.unlink()),
    }[what]()
    return path


@pytest.mark.parametrize(
    "what, says",
    [
        ("no vae", "vae: its folder is missing"),
        ("no text", "text_encoder: its folder is missing"),
        ("no weights", "unet: its weights (.safetensors) are missing"),
        ("cut", "unet: diffusion_pytorch_model.safetensors is damaged or cut short"),
        ("empty", "unet: diffusion_pytorch_model.safetensors is damaged or cut short, 0 bytes"),
        ("pickle", "unet: its weights are pickled (diffusion_pytorch_model.bin)"),
        (
            "variant",
            "unet: there is diffusion_pytorch_model.fp16.safetensors, but no weights under the plain name",
        ),
        (
            "pointer",
            "unet: diffusion_pytorch_model.safetensors is not there itself, only its Git LFS pointer",
        ),
        ("no tokens", "tokenizer: its folder is empty"),
        ("config", "vae: config.json: not valid JSON"),
        ("no config", "vae: its config.json is missing"),
        ("index", "model_index.json: not valid JSON"),
        ("list", "model_index.json: holds no object"),
        ("other", "KandinskyPipeline' is not supported"),
        ("nameless", "vae: model_index.json does not name it"),
        ("two", ["vae: its folder is missing", "unet: its weights (.safetensors) are missing"]),
    ],
)
def test_a_pipeline_that_is_not_whole(work, tmp_path, nothing_is_read, what, says):
    base = broken(work, tmp_path / "pipe", what)
    text = refused(
        "sft",
        "--data",
        work / "pictures",
        "--base",
        base,
        "--out",
        tmp_path / "run",
        says=says,
        out=tmp_path / "run",
    )
    assert str(base) in text
    refused(
        "sample",
        "--base",
        base,
        "--prompt",
        "x",
        "--out",
        tmp_path / "seen",
        says=says,
        out=tmp_path / "seen",
    )


def test_weights_in_parts(work, tmp_path):
    shutil.copytree(work / "sd", tmp_path / "pipe")
    (tmp_path / "pipe" / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    load_backbone(work / "sd", resolution=64).denoiser.save_pretrained(
        tmp_path / "pipe" / "unet", max_shard_size="100KB"
    )
    parts = sorted((tmp_path / "pipe" / "unet").glob("*-of-*.safetensors"))
    assert len(parts) > 1
    load_backbone(tmp_path / "pipe", resolution=64)  # whole
    parts[-1].unlink()
    refused(
        "sample",
        "--base",
        tmp_path / "pipe",
        "--prompt",
        "x",
        "--out",
        tmp_path / "seen",
        says=f"unet: {parts[-1].name} is missing",
        out=tmp_path / "seen",
    )


@pytest.fixture(scope="module")
def other(work):
    "A tiny FLUX and a tiny SD 3, and adapters of FLUX and of SD."
    tiny_flux(work / "flux")
    tiny_sd3(work / "sd3")
    for name in ("flux", "sd"):
        bb = load_backbone(work / name, resolution=64)
        bb.add_adapter("a", 2)
        bb.save_adapter("a", work / f"lora-{name}")
    return work


@pytest.mark.parametrize(
    "what, says",
    [
        ("foreign", "was made for a FluxPipeline, and this base is a StableDiffusionPipeline"),
        ("unknown", "no LoRA weight of it belongs to this base"),
        ("cut", "is damaged or cut short"),
        (
            "several",
            "holds several files, and only one can be the LoRA: a.safetensors, b.safetensors",
        ),
        ("pickle", "holds no LoRA (.safetensors)"),
        ("nowhere", "holds no LoRA (.safetensors): there is nothing of that name"),
    ],
)
def test_an_adapter_that_cannot_be_used(other, tmp_path, what, says):
    path, name = tmp_path / "lora", "pytorch_lora_weights.safetensors"
    if what != "nowhere":
        shutil.copytree(other / f"lora-{'flux' if what in ('foreign', 'unknown') else 'sd'}", path)
    if what == "unknown":
        (path / "adapter.json").unlink()  # as other trainers leave it
    if what == "cut":
        (path / name).write_bytes((path / name).read_bytes()[:500])
    if what == "several":
        shutil.copy(path / name, path / "a.safetensors")
        (path / name).rename(path / "b.safetensors")
    if what == "pickle":
        (path / name).rename(path / "pytorch_lora_weights.bin")
    refused(
        "sample",
        "--base",
        other / "sd",
        "--adapter",
        path,
        "--prompt",
        "x",
        "--out",
        tmp_path / "seen",
        says=[says, str(path)],
        out=tmp_path / "seen",
    )
    refused(
        "align",
        "--data",
        other / "pictures",
        "--base",
        other / "sd",
        "--auxiliary",
        path,
        "--out",
        tmp_path / "run",
        "--cache",
        tmp_path / "stores",
        says=[says, str(path)],
        out=tmp_path / "run",
    )
    assert not (tmp_path / "stores").exists()  # nothing was encoded


def test_of_several_files_the_known_name_is_taken(other, tmp_path):
    shutil.copytree(other / "lora-sd", tmp_path / "lora")
    save_file(dict(x=torch.zeros(1)), tmp_path / "lora" / "a.safetensors")
    load_backbone(other / "sd", resolution=64).load_adapter(tmp_path / "lora", "a")
    load_backbone(other / "sd", resolution=64).load_adapter(
        tmp_path / "lora" / "pytorch_lora_weights.safetensors", "a"
    )


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
    refused(
        "sft",
        "--data",
        other / "pictures",
        "--base",
        other / family,
        "--resolution",
        size,
        "--out",
        tmp_path / "run",
        "--cache",
        tmp_path / "stores",
        says=[f"resolution {size}", says],
        out=tmp_path / "run",
    )
    assert not (tmp_path / "stores").exists()


@pytest.mark.parametrize(
    "name",
    ["owner/name", "black-forest-labs/FLUX.1-dev", "stabilityai/stable-diffusion-xl-base-1.0"],
)
def test_a_hub_that_is_out_of_reach(work, tmp_path, nothing_is_read, name):
    refused(
        "sft",
        "--data",
        work / "pictures",
        "--base",
        name,
        "--out",
        tmp_path / "run",
        says=[f"{name}: neither a folder here nor a pipeline that the hub gives", "network"],
        out=tmp_path / "run",
    )


def test_other_mistakes(work, tmp_path, nothing_is_read):
    good = ("sft", "--data", work / "pictures", "--base", work / "sd", "--out", tmp_path / "run")
    (tmp_path / "file").write_text("x")
    for more, says in {
        ("--dtype", "int8"): "--dtype",
        ("--precision", "fp8"): "--precision",
        ("--cache", tmp_path / "file"): f"--cache {tmp_path}/file: {tmp_path}/file is a file",
        ("--cache", tmp_path / "file" / "deeper"): f"{tmp_path}/file is a file",
        ("--out", tmp_path / "file"): "is a file",
        ("--out", tmp_path / "file" / "run"): "is a file",
        ("--base", work / "sd" / "model_index.json"): "is a file, and a pipeline is a folder",
        ("--base", "pipe.safetensors"): "no such folder",
    }.items():
        refused(*good, *more, says=says, out=tmp_path / "run")
    if os.geteuid():  # root may write anywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        refused(*good, "--out", tmp_path / "locked" / "run", says="cannot be written to")


def test_a_tree_without_the_ids_of_the_data(work, tmp_path):
    refused(
        "sft",
        "--data",
        work / "pictures",
        "--base",
        work / "sd",
        "--criteria",
        "product_photography",
        "--out",
        tmp_path / "run",
        says=["unknown id", "ids are those of the tree 'product-photography'"],
        out=tmp_path / "run",
    )


def test_accepted_changes(work, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run-of-before")
    folder = tmp_path / "run-of-before"
    before = (folder / "run" / "config.json").read_bytes()

    def go(*more):
        return command(work, folder, *more)

    refused(*go("--seed", "1"), says=["seed: there 0, now 1", "--accept-changes"])
    refused(*go("--rank", "3"), says="rank: there 2, now 3")
    text = refused(
        *go("--rank", "3", "--accept-changes"),
        says=[
            "holds other parameters than this run trains",
            "there (2, ",
            "here (3, ",
            "another run folder",
        ],
    )
    assert (
        "more" in text and (folder / "run" / "config.json").read_bytes() == before
    )  # a refused change is not noted
    assert cpo(*go())[0] == 0  # and the run is as good as before
    code, said = cpo(*go("--lr", "1e-3", "--steps", "6", "--accept-changes"))
    assert code == 0, said
    changes = read_json(folder / "run" / "config.json")["changes"]
    assert [c["after"] for c in changes] == [4] and any(
        "lr: there 0.0001, now 0.001" in c for c in changes[0]["what"]
    )
    assert [r["step"] for r in read_metrics(folder / "run")] == [1, 2, 3, 4, 5, 6]
