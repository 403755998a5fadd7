"Every `cpo …` command that the repository shows is whole: the real parser takes it as it stands."

import json, re, shlex
from dataclasses import asdict

import pytest, typer
from cpo_nb.methods import METHODS
from cpo_nb.cli import align_config, app, sft_config
from cpo_nb.core import get_scale, to_jsonable
from cpo_nb.grid import Run, load_grid
from cpo_nb.grid_resolve import grid_policy
from cpo_nb.shipped import auxiliary_config
from run_notebooks import NBS, ROOT

SHOWN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN += [*sorted((ROOT / "configs").glob("*.yaml")), NBS / "index.ipynb"]
SHOWN += sorted(NBS.glob("6*_guide_*.ipynb"))
START = re.compile(
    r"(?:accelerate launch .*-m cpo_nb\.cli|python -m cpo_nb\.cli|\.venv/bin/cpo|cpo) "
)


def text_of(path) -> str:
    "Markdown, and what a notebook shows as such."
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]).replace("\\\\", "\\") for c in cells)


def shown_commands(text: str) -> list[str]:
    "Commands in code spans and on lines of their own; not those that only name an option."
    text = text.replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", text) + text.splitlines()
    commands = []
    for span in spans:
        span = span.strip().lstrip("# ").strip()
        match = START.match(span)
        mention = re.fullmatch(r"cpo( \w+)* --[\w-]+", span)
        if match and not mention and "`" not in span and "…" not in span and " --" in span:
            commands.append(span[match.end() :].split(" # ")[0].strip())
    return list(dict.fromkeys(commands))


def parse(line: str) -> None:
    "Raises what the parser raises."
    words, command = shlex.split(line), typer.main.get_command(app)
    while hasattr(command, "commands"):
        if words[0] not in command.commands:
            raise ValueError(f"there is no command {words[0]!r}")
        command, words = command.commands[words[0]], words[1:]
    command.make_context("cpo", words)


@pytest.mark.parametrize("path", SHOWN, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_shown_commands_are_whole(path):
    wrong = []
    for line in shown_commands(text_of(path)):
        try:
            parse(line)
        except Exception as error:
            wrong.append(f"cpo {line}: {getattr(error, 'message', error)}")
    assert wrong == []


def test_commands_are_found_and_mistakes_seen():
    found = shown_commands("`cpo sft --data x`\n```\ncpo plan --base A \\\n  --rank 3  # why\n```")
    assert found == ["sft --data x", "plan --base A    --rank 3"]
    for line in ("sft --data x", "sft --data x --out y --rnk 3", "align --data x --out y --rank z"):
        with pytest.raises(Exception, match="out|rnk|integer"):
            parse(line)
    assert len(shown_commands(text_of(NBS / "60_guide_sdxl.ipynb"))) > 6


def resolved_on_the_atelier(rows: list[str]) -> dict[str, dict]:
    "Settings at scale tiny: of the commands when nothing is given, and of rows of the grid `main`."
    tiny = get_scale("tiny")
    grid = load_grid("main", tiny)
    found = {
        f"cpo align --method {m}": align_config(tiny, m, "atelier", {}, set())[0] for m in METHODS
    }
    found["cpo sft"] = sft_config(tiny, "atelier", {}, set())[0]
    found["reproduce: the auxiliary"] = auxiliary_config(tiny)
    for name in rows:
        found[f"reproduce: {name}"] = grid_policy(grid, Run(name, 0), tiny).config
    return {name: to_jsonable(asdict(config)) for name, config in found.items()}


def test_settings_of_the_atelier_stay():
    "Field by field as recorded: results, searches and shipped adapters were made with these."
    recorded = json.loads((ROOT / "tests" / "atelier_settings.json").read_text())
    rows = [name.removeprefix("reproduce: ") for name in recorded if name.startswith("reproduce: ")]
    now = resolved_on_the_atelier([name for name in rows if name != "the auxiliary"])
    assert recorded.keys() <= now.keys()
    for name, fields in recorded.items():
        for field, value in fields.items():
            assert (name, field, now[name][field]) == (name, field, value)
