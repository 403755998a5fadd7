"""What README, CONTRIBUTING, docs/logged.md and the command's help promise, and what holds it.

A sentence that promises something stands here word for word, with the tests that fail when it is
broken: `file.py::test`, or a notebook without its number and a line of one of its tests
(`loss: check(…)`).
"""

import ast, json, re, shlex
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from typer.testing import CliRunner

from cpo_nb.annotations import Annotation, append_annotations, image_files
from cpo_nb.cli import app
from cpo_nb.core import read_json
from cpo_nb.ledger_tables import SHOWN_ROWS
from cpo_nb.pipelines import tiny_pipeline
from cpo_nb.training import TrainConfig, train

ROOT = Path(__file__).resolve().parent.parent

PROMISES = {
    "README.md": {
        "offline, in under 10 minutes": [  # the minutes: README's table says what was measured
            'cli_reproduce: print(cpo("reproduce --no-figures", contains=["computed now"',
            "test_tools.py::test_the_network_is_out_of_reach",
        ],
        "every test, and every notebook in a process of its own": [
            "test_notebooks.py::test_notebook_runs_alone"
        ],
        "make test": ["test_promises.py::test_targets_of_make_exist"],
        "pinned versions": ["test_repo.py::test_environment_is_pinned"],
        "Python 3.11 or newer": [
            "test_promises.py::test_versions_of_python_are_those_that_were_tried"
        ],
        "`pip install .` adds the package and the command `cpo`": [
            "test_package.py::test_installed_wheel_finds_its_data"
        ],
        "`CPO_SCALE=smoke nbdev_test`": [
            "test_nbdev.py::test_nbdev_test_passes",
            "test_notebooks.py::test_notebook_runs_alone",  # it leaves nothing for the next, too
        ],
        "Predictions may be ε, v or flow velocity.": [
            'loss: for kind, step in itertools.product(("epsilon", "v_prediction", "sample")',
            'families: assert (table["largest change of a latent"] > 1e-3).all()',
        ],
        "Squared errors are per-sample *means*, so `beta` does not depend on the latents' size.": [
            "loss: check(larger.per_sample, out.per_sample)"
        ],
        "Every trained row has the same number of training steps in stage 2, and settings that its "
        "own search chose by one declared rule": [
            "test_promises.py::test_rows_are_compared_fairly"
        ],
        "a classifier that shares no weights with any model here": [
            "test_promises.py::test_the_judge_shares_no_weights"
        ],
        "cuts negative attributes by": [
            "test_notebooks.py::test_notebook_runs_in_a_kernel",  # the index shows what README says
            'index: assert best["n_neg"][2] < base["n_neg"][1]',
            "test_repo.py::test_readme_is_made_from_the_index",
        ],
        "a pair in neither list does not apply": [
            'prompts: test_eq(prompt(positive=[], negative=[]), "a boat at dusk")'
        ],
        "Images are an imagefolder with `metadata.jsonl`": [
            "test_promises.py::test_commands_of_readme_with_images_of_ones_own"
        ],
        "an SD 1.5, SDXL, SD 3 or FLUX pipeline": [
            "test_never_lose_work.py::test_a_command_that_is_killed_goes_on"
        ],
        "a folder or a hub id": [
            "test_promises.py::test_a_hub_id_is_read_from_the_hubs_own_cache",
            "test_never_lose_work.py::test_a_hub_that_is_out_of_reach",
        ],
        "CSV, a column for each pair, exports of Label Studio": [
            "layouts: test_eq(unordered(rows), ROWS)",
            "layouts: assert message in str(error) and len(str(error).splitlines()) <= 3",
        ],
        "splits of your own are read too": [
            'splits: test_eq(user_splits(from_names("a.png", split="Test"))'
        ],
        "Steps, batch, rates, layers and sampling fit the base and the number of images": [
            'sizes: test_eq((ours[0]["steps"], ours[1]), (53, "family sd, 8 epochs of 53 images"))',
            "sizes: test_eq([(s.steps, s.guidance_scale) for s in found]",
        ],
        "`cpo plan` says what a run needs, the filling of its target bank included, and what to "
        "change until it fits.": [
            "plan: assert few.bank_seconds > 0",
            "plan_fit: test_eq([plan.fits for _, plan in changes], [False] * 5 + [True])",
            "test_promises.py::test_commands_of_readme_with_images_of_ones_own",
        ],
        "The result is a LoRA file that `pipeline.load_lora_weights` reads.": [
            'families: assert table["a fresh pipeline agrees within 2e-4"].all()',
            "test_promises.py::test_commands_of_readme_with_images_of_ones_own",
        ],
        "A killed run resumes with the same command and ends bit for bit where the uninterrupted "
        "one ends (on a CPU)": [
            "test_never_lose_work.py::test_a_command_that_is_killed_goes_on",
            "test_never_lose_work.py::test_killed_in_the_middle_of_everything",
            "test_never_lose_work.py::test_killed_at_random_moments",
        ],
        "A collapsing run stops and keeps the last good weights": [
            "align: check(p, good[n])",
            "test_never_lose_work.py::test_a_collapsing_run_gives_back_its_last_good_weights",
        ],
        "Several GPUs: `accelerate launch --config_file configs/eight-gpus.yaml -m cpo_nb.cli "
        "align": [
            "test_processes.py::test_the_command_in_two_processes_gives_the_adapter_of_one",
            "test_processes.py::"
            "test_configurations_are_read_by_accelerate_and_name_a_command_that_exists",
        ],
    },
    "CONTRIBUTING.md": {
        "`cpo_nb/*.py` and `README.md` are made from them": [
            "test_repo.py::test_modules_are_what_notebooks_export",
            "test_repo.py::test_readme_is_made_from_the_index",
        ],
        "50 | figures and tables, one notebook each; they define nothing": [
            "test_promises.py::test_figure_notebooks_define_nothing"
        ],
        "A module imports only what reads before it, and no private name": [
            "test_repo.py::test_imports_go_downwards",
            "test_repo.py::test_private_names_stay_in_their_module",
        ],
        "`docments` is the exception: it imports nothing": [
            "test_repo.py::test_docments_imports_nothing_of_the_package"
        ],
        "never more than 60": [
            "test_repo.py::test_definitions_are_short",
            "test_repo.py::test_exported_cells_are_short",
        ],
        "At most 100 columns and one statement a line": ["test_repo.py::test_ruff_is_content"],
        "It runs alone, from an empty cache, without a network": [
            "test_notebooks.py::test_notebook_runs_alone",
            "test_tools.py::test_the_network_is_out_of_reach",
        ],
        "A new dependency goes into `settings.ini` with a lower bound": [
            "test_repo.py::test_imports_are_required",
            "test_repo.py::test_environment_is_pinned",
        ],
        "a conflict leaves a notebook that JupyterLab can open, with both versions of the cell in "
        "it": ["test_docs.py::test_a_conflict_leaves_a_notebook_with_both_versions"],
        "names the programs in `.venv` by their full path": [
            "test_docs.py::test_hooks_are_installed"
        ],
        "Nothing is executed and nothing is fetched": [
            "test_docs.py::test_site_builds_without_a_network"
        ],
        "A warning, a dead link, a missing anchor, a script from elsewhere or a path of the "
        "machine makes it fail.": [
            "test_docs.py::test_checker_finds_what_is_wrong",
            "test_docs.py::test_site_builds_without_a_warning",
        ],
        "`#| hide` leaves a cell out": ["test_docs.py::test_staged_notebook_has_no_hidden_cells"],
        "becomes the source of that definition": ["test_docs.py::test_places_in_pages_are_filled"],
        "lists public parameters without one": [
            "test_docs.py::test_undocumented_names_parameters_without_a_comment"
        ],
        "Every public parameter and every field of a dataclass has a comment": [
            "test_repo.py::test_public_parameters_are_explained"
        ],
        "so that `help()` shows them": ["test_docs.py::test_help_shows_parameters_and_returns"],
    },
    "docs/logged.md": {
        "Every column of `metrics.jsonl`": [
            "test_never_lose_work.py::test_the_log_holds_the_columns_that_are_explained",
        ],
        "A resumed run neither repeats nor misses a line.": [
            "test_never_lose_work.py::test_killed_in_the_middle_of_everything"
        ],
        "A value that is not finite is written as `null`.": [
            "test_promises.py::test_values_that_are_not_finite_are_null"
        ],
        "The last step is always logged.": [
            'training: test_eq([row["step"] for row in read_metrics(folder)], [2, 4, 5])'
        ],
        "The first line has `d_w` = `d_l` = `margin` = 0, `accuracy` = 0 and `loss` = 0.693.": [
            "test_never_lose_work.py::test_the_log_holds_the_columns_that_are_explained"
        ],
        "gives back the last weights at which": [
            "test_never_lose_work.py::test_a_collapsing_run_gives_back_its_last_good_weights"
        ],
        "`cpo align` then ends with exit code 3.": [
            "test_never_lose_work.py::test_a_collapsing_run_gives_back_its_last_good_weights"
        ],
        "`--collapse 0` on the command line, turns the early stop off": [
            'cli: test_eq([config[k] for k in ("guidance", "paired", "collapse")], [2.0, True, None'
        ],
        "hashes of base, adapters, data and tree; compared on resume, and a difference is refused "
        "and shown": [
            "align: test_eq(found[name], [problem])",
            "test_never_lose_work.py::test_accepted_changes",
        ],
        "the newest `keep` stay, and the best one by the held-out score": [
            "runs: save_checkpoint(run, step, params, ema, opt, keep=2"
        ],
        "Nothing is pickled.": [
            "test_repo.py::test_no_unsafe_reading",
            "test_repo.py::test_unsafe_code_is_found",
            "test_repo.py::test_shipped_data_is_small_and_plain",
        ],
        "Every file is written under a temporary name and renamed, so a killed run leaves whole "
        "files.": [
            "test_never_lose_work.py::test_killed_in_the_middle_of_everything",
            "test_never_lose_work.py::test_a_full_disk",
        ],
    },
    "cpo --help": {
        "0 done; 2 a mistake that the message explains": [
            'cli: test_eq((wrong.returncode, wrong.stdout), (2, ""))'
        ],
        "3 stopped for collapse": [
            "test_never_lose_work.py::test_a_collapsing_run_gives_back_its_last_good_weights"
        ],
        "130 interrupted, the same command resumes": [
            "test_never_lose_work.py::test_an_interrupted_command_goes_on"
        ],
    },
    "cpo align --help": {
        "A policy that begins to collapse goes back to its last good weights; the exit code is 3": [
            "test_never_lose_work.py::test_a_collapsing_run_gives_back_its_last_good_weights"
        ],
    },
    "cpo sample --help": {
        "A seed gives the same image whatever the batch size.": [
            "sampling: runs = [sample(backbone, **how, latents_only=True, batch_size=n)"
        ],
    },
}
SENTENCES = [
    pytest.param(document, sentence, holds, id=f"{document}: {sentence[:40]}")
    for document, promises in PROMISES.items()
    for sentence, holds in promises.items()
]


def one_line(text: str) -> str:
    return " ".join(text.split())


@cache
def text_of(document: str) -> str:
    "A file of the repository, or the help of a command, in one line."
    if document.endswith(".md"):
        return one_line((ROOT / document).read_text(encoding="utf-8"))
    words = document.split()[1:]
    return one_line(CliRunner().invoke(app, words, prog_name="cpo", env={"COLUMNS": "300"}).output)


@cache
def known_tests(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


@cache
def example_lines(notebook: str) -> list[str]:
    "Lines of the cells that are not exported; the notebook is named without its number."
    found = [
        p for p in (ROOT / "nbs").glob("*.ipynb") if re.sub(r"^\d+\w?_", "", p.stem) == notebook
    ]
    cells = json.loads(found[0].read_text(encoding="utf-8"))["cells"] if len(found) == 1 else []
    sources = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
    return [l for s in sources if not re.match(r"#\s*\|\s*export", s) for l in s.splitlines()]


def stands(reference: str) -> bool:
    if "::" in reference:
        file, _, test = reference.partition("::")
        return test in known_tests(file)
    notebook, _, line = reference.partition(": ")
    return any(line in l for l in example_lines(notebook))


@pytest.mark.parametrize("document, sentence, holds", SENTENCES)
def test_a_promise_is_held_by_a_test(document, sentence, holds):
    assert one_line(sentence) in text_of(document), "the sentence has changed: is the promise kept?"
    assert holds and [r for r in holds if not stands(r)] == [], "no such test"


# ---- promises of README that no other test holds


def block(language: str, having: str) -> str:
    "A code block of README."
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return next(b for b in blocks if having in b)


def cpo(line: str, code: int = 0) -> str:
    r = CliRunner().invoke(app, shlex.split(line)[1:], prog_name="cpo")
    assert r.exit_code == code, r.output
    return r.output


SMALL = {  # what is added to README's lines, so that they take seconds
    "plan": "--steps 2 --batch-size 4",
    "sft": "--steps 2 --batch-size 4 --rank 2 --previews 0 --precision fp32",
    "experts": "--steps 2 --batch-size 4 --rank 2 --precision fp32",
    "align": "--steps 2 --batch-size 4 --rank 2 --previews 0 --precision fp32 --lr 1e-2",
    "sample": "--steps 2",
    "evaluate": "--steps 2",
}


def test_commands_of_readme_with_images_of_ones_own(tmp_path, monkeypatch):
    "The tree, the row and the commands as they stand there, from plan to a verdict of people."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CPO_CACHE", str(tmp_path / "cache"))
    tiny_pipeline(tmp_path / "PIPELINE")
    Path("coffee.yaml").write_text(block("python", "my_tree").split('"""')[1], encoding="utf-8")
    row = json.loads(block("json", "file_name"))
    Path("images").mkdir()
    with open("images/metadata.jsonl", "w", encoding="utf-8") as f:
        for i in range(16):
            name = f"{i:03d}{Path(row['file_name']).suffix}"
            Image.new("RGB", (64, 64), (15 * i, 90, 120)).save(f"images/{name}")
            own = dict(file_name=name, caption=f"{row['caption']} {i}")
            own |= dict(negative=[]) if i % 2 else {}  # the better half
            print(json.dumps(row | own), file=f)

    lines = block("bash", "cpo plan").replace("\\\n", " ").splitlines()
    *lines, verdict = [f"{line} {SMALL[line.split()[1]]}" for line in lines]
    said = {line.split()[1]: cpo(line) for line in lines}
    assert list(said) == ["plan", "sft", "experts", "align", "sample"]
    assert "RTX 4090" in said["plan"] and "GiB" in said["plan"]
    assert Image.open("samples/00000.png").size == (64, 64)

    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained("PIPELINE", safety_checker=None)
    pipeline.load_lora_weights("runs/policy/adapter")
    loras = {n: p for n, p in pipeline.unet.named_parameters() if "lora_B" in n}
    assert loras and all(p.abs().max() > 0 for p in loras.values())

    Path("prompts.txt").write_text("a cup of coffee\na cup of tea\n", encoding="utf-8")
    assert "label the images" in cpo(verdict, 2)  # nobody has looked at them yet
    answers = [Annotation(h, "light", 1, "anna") for h in image_files("report/images").values()]
    append_annotations("report/images", answers)
    assert "#A_pos 1.00 → 1.00" in cpo(verdict)
    assert Path("report/report.html").is_file()


def test_a_hub_id_is_read_from_the_hubs_own_cache(tmp_path, monkeypatch):
    "Without a network, when it was downloaded before."
    from huggingface_hub import constants

    from cpo_nb.backbone import load_backbone

    repo = tmp_path / "models--owner--tiny"
    tiny_pipeline(repo / "snapshots" / "0")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_backbone("owner/tiny", resolution=64).latent_shape[0] == 4


def test_values_that_are_not_finite_are_null(tmp_path):
    w = torch.nn.Parameter(torch.zeros(2))
    how = TrainConfig(steps=1, batch_size=2)
    train(tmp_path / "run", dict(w=w), lambda *_: (w.sum(), dict(x=float("nan"))), 4, how)
    assert '"x": null' in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")


def test_rows_are_compared_fairly():
    "Each trained row of the table: the same number of steps, and what the search chose."
    results, found = ROOT / "data" / "results", set()
    for row in (name for name in SHOWN_ROWS if name != "base"):
        for path in sorted((results / "ledger" / "tiny").glob(f"{row}-seed?-*.json.gz")):
            result = read_json(path)
            who, _, search = result["settings_from"].partition(" ")
            stored = json.loads((results / "search" / "tiny" / f"{search}.json").read_text())
            align = result["record"]["settings"]
            found.add((align["train"]["steps"], align["train"]["batch_size"]))
            assert who == "search"
            best = stored["best"]
            assert {k: (align | align["train"])[k] for k in best} == best, path.name
    assert len(found) == 1


def test_the_judge_shares_no_weights():
    "No tensor of the classifier is one of a model that is trained or sampled from here."

    def contents(path):
        with safe_open(path, "np") as f:
            tensors = [f.get_tensor(k) for k in f.keys()]
        return {t.tobytes() for t in tensors if t.size > 1 and t.std() > 0}

    judge, *others = sorted(
        (ROOT / "data" / "atelier").rglob("*.safetensors"),
        key=lambda p: p.name != "judge.safetensors",
    )
    assert judge.name == "judge.safetensors" and len(others) >= 5
    assert [p.name for p in others if contents(p) & contents(judge)] == []


def test_targets_of_make_exist():
    "What README and CONTRIBUTING tell a reader to type."
    named = set()
    for name in ("README.md", "CONTRIBUTING.md"):
        named |= set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"test", "reproduce", "lab", "docs"} <= named
    assert sorted(named - set(targets)) == []


def test_versions_of_python_are_those_that_were_tried():
    "The lowest one, the classifiers of the package, and what the workflow runs."
    least = re.search(r"^min_python = (\S+)", (ROOT / "settings.ini").read_text(), re.MULTILINE)[1]
    for name in ("README.md", "CONTRIBUTING.md", "Makefile"):
        said = re.findall(r"(3\.\d+) or newer", (ROOT / name).read_text())
        assert said and set(said) == {least}, name
    tree = ast.parse((ROOT / "setup.py").read_text())
    (tried,) = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and n.targets[0].id == "PYTHONS"
    ]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    assert tried[0] == least
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == tried


def test_figure_notebooks_define_nothing():
    figures = sorted((ROOT / "nbs").glob("5*.ipynb"))
    assert figures and [p.name for p in figures if "default_exp" in p.read_text()] == []
