"""Command lines that no user should have to fear: odd values of options, seeded.

`mutations(seed, n)` yields them with a note of what each does. Of every one the same is asked: it
ends with one of CODES, without a traceback, within seconds, and writes nothing outside the folders
that its options name. Placeholders stand for fixed words of a command; `filled` replaces them.
"""

import os
import random
from dataclasses import dataclass
from pathlib import Path

CODES = (0, 1, 2, 3)  # 1: the help of a group without a command, and typer's own end of a pipe

# a command line that is right, of the cheapest work that it can do
RIGHT = {
    "criteria check": "{tree}",
    "criteria plot": "{tree} --out {out}/tree.png",
    "annotate measure": "--images {data} --criteria {tree}",
    "annotate merge": "--images {data} --criteria {tree} --captions table,names",
    "annotate report": "--images {data} --criteria {tree} --out {out}/report.html --no-card",
    "annotate import": "--images {data} --kind labels --table {data}/metadata.jsonl --annotator x",
    "plan": "--base {base} --images 8 --batch-size 2 --steps 2",
    "sft": "--data {data} --criteria {tree} --base {base} --out {out}/run --steps 1 --batch-size 2 "
    "--rank 2 --previews 0 --scale smoke --cache {out}/cache",
    "align": "--data {data} --criteria {tree} --base {base} --auxiliary {adapter} --out {out}/run "
    "--steps 1 --batch-size 2 --rank 2 --previews 0 --n-draws 1 --scale smoke --cache {out}/cache",
    "bank build": "--data {data} --criteria {tree} --base {base} --auxiliary {adapter} --n-draws 1 "
    "--bank {out}/bank --cache {out}/cache --scale smoke",
    "bank check": "{out}",
    "sample": "--base {base} --adapter {adapter} --prompt x --out {out}/samples --steps 1",
    "evaluate": "--adapter {adapter} --base {base} --prompts {prompts} --seeds 0,1,2,3,4 --steps 1 "
    "--judge measures --scores none --out {out}/report --overwrite",
    "reproduce": "--data {data} --criteria {tree} --scale smoke",
    "experiment": "smoke --dry-run --scale smoke",
    "atelier check": "{out}",
    "atelier dataset": "--out {out}/images --images 2",
}
TEXTS = ("", " ", "\t\n", "nan", "inf", "-inf", "0", "-1", "1e400", "1e-400", "9" * 30, "0x10", "٣")
TEXTS += ("1,2", "None", "true", "画家", "🎨", "e\u0301", "\u202eabc", "\x1b[31m", "a" * 5000)
TEXTS += (
    "a/b\\c",
    "../../x",
    "--",
    "-",
    "--seed",
    "x:nan",
    "x:1e999",
    "{0}",
    "%s",
    "$HOME",
    "a\nb",
)
PLACES = (
    "{folder}",
    "{file}",
    "{fifo}",
    "{missing}",
    "{missing}/a/b",
    "{loop}",
    "{closed}",
    "/dev/null",
)


@dataclass(frozen=True)
class Line:
    "A command line, its words with placeholders."

    words: tuple[str, ...]
    note: str  # what was done to the right line


def _options(command) -> list:
    "Options of a typer command; compiling takes a minute, and is tested elsewhere."
    return [p for p in command.params if p.opts[0].startswith("--") and p.name != "compile"]


def _replaced(words: list[str], option: str, value: str) -> list[str]:
    "The words with another value of an option, added where it was not."
    if option not in words:
        return [*words, option, value]
    i = words.index(option)
    return [*words[: i + 1], value, *words[i + 2 :]]


def _mutated(rng: random.Random, words: list[str], command) -> tuple[list[str], str]:
    "One change of a right line."
    options, kind = _options(command), rng.random()
    option = rng.choice(options) if options else None
    if option is None or kind < 0.1:
        i, value = rng.randrange(len(words)), rng.choice(TEXTS + PLACES)
        return [*words[:i], value, *words[i + 1 :]], f"word {i} is {value[:20]!r}"
    name = option.opts[0]
    if kind < 0.2:
        cut = rng.randrange(len(words) + 1)
        return words[:cut], f"the first {cut} words"
    if kind < 0.3:
        wrong = name[:-1] + rng.choice("xyz")
        return [*words, wrong, "1"], f"unknown option {wrong}"
    if kind < 0.4:
        return [*words, name], f"{name} without a value, or once more"
    if getattr(option, "is_flag", False):
        return [*words, name], f"flag {name}"
    value = rng.choice(TEXTS + PLACES)
    return _replaced(words, name, value), f"{name} is {value[:20]!r}"


def mutations(
    seed: int,  # of the choice
    n: int,  # how many
    commands: tuple[str, ...] = tuple(RIGHT),  # of which commands
):  # yields Line
    "Command lines with one or two odd places each."
    import typer

    from cpo_nb.cli import app

    top, rng = typer.main.get_command(app), random.Random(seed)
    for _ in range(n):
        name = rng.choice(commands)
        command = top
        for word in name.split():
            command = command.commands[word]
        words, notes = RIGHT[name].split(), []
        for _ in range(rng.choice((1, 1, 2))):
            words, note = _mutated(rng, words, command)
            notes.append(note)
            if not words:
                break
        if name == "experiment" and "--dry-run" not in words:
            words = ["--dry-run", *words]  # without it the whole grid runs
        if name == "reproduce" and "--data" not in words:
            words = ["--data", "{data}", *words]  # without it the whole study runs
        yield Line((*name.split(), *words), f"{name}: {'; '.join(notes)}")


def odd_places(folder: Path) -> dict[str, str]:
    "Paths that are no ordinary folder, by placeholder."
    places = {
        name: folder / name for name in ("folder", "file", "fifo", "missing", "loop", "closed")
    }
    places["folder"].mkdir()
    places["file"].write_bytes(b"\x00\xff not a text")
    os.mkfifo(places["fifo"])
    places["loop"].symlink_to(places["loop"])
    places["closed"].mkdir(mode=0o500)
    return {name: str(path) for name, path in places.items()}


def filled(
    line: Line,  # with placeholders
    **places: str,  # base, data, tree, adapter, prompts, out, and those of `odd_places`
) -> list[str]:
    "The words of a command line."
    words = []
    for word in line.words:
        for name, path in places.items():
            word = word.replace("{" + name + "}", path)
        words.append(word)
    return words
