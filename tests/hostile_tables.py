"""Hostile tables and trees, from a seed: each loads with the labels that its file gives, or ends in
one `CpoError`.

`mutations(seed, n)` yields pairs (name, write). `write(folder)` makes `data` and `tree.yaml` in the
folder and returns the labels that may be loaded: hash of an image's bytes -> list of (positive,
negative); None where bytes were cut, moved or added, so that nobody can say what the file means.
`outcome(folder, labels)` loads it and says what is wrong, "" for nothing.
"""

import csv, hashlib, io, json, os, random, re, shutil
from functools import partial
from pathlib import Path

import pyarrow as pa, pyarrow.parquet as pq, yaml
from PIL import Image

from cpo_nb.core import CpoError
from cpo_nb.dataset import load_paintings

PAIRS = {
    "light/direction": ("raking side light", "flat frontal flash"),
    "light/highlight": ("glossy highlights kept", "highlights blown out"),
    "plating/rim": ("clean rim", "smeared rim"),
    "colour": (
        "\u9c9c\u8273\u7684\u989c\u8272",
        "\u0623\u0644\u0648\u0627\u0646 \u0628\u0627\u0647\u062a\u0629",
    ),
    "props": ("props \U0001f35c that tell a story", "cluttered props"),
}
JUNK = [None, True, 0, 3.5, -1, "", " ", "x", "a\0b", "\u202e", "\U0001f35c" * 50, [], [1], {}]
JUNK += [
    {"a": 1},
    [None],
    [[]],
    ["light"],
    ["raking side light"],
    "light",
    "nan",
    "None",
    "1,2",
    10**40,
]
JUNK += [["light/directoin"], ["Light/Direction"], ["props", "props"], "['props' 'colour']"]
JUNK += ["['light/direction'", '["props"', "props colour", "[props]x", {"choices": ["props"]}]
NAMES = ["../data/0.png", "/etc/passwd", "C:\\0.png", "http://x.org/0.png", "nowhere.png", "", "."]
NAMES += ["pipe.png", "loop.png", "out.png", "empty.png", "text.png", "0.png\0", "a" * 5000, "sub"]


def node(full: str) -> dict:
    "A pair of the tree as in its file."
    slug, (positive, negative) = full.rpartition("/")[2], PAIRS[full]
    own = dict(id=slug, name=slug.title(), positive=positive, negative=negative)
    return own | dict(definition=f"Look at {slug}.")


def tree() -> dict:
    "The tree as in its file."
    groups = {}
    for full in PAIRS:
        groups.setdefault(full.partition("/")[0], []).append(node(full))
    children = [
        n[0] if n[0]["id"] == g else dict(id=g, name=g, children=n) for g, n in groups.items()
    ]
    return dict(id="food", name="Food", children=children)


# ---- rows, and the forms that they are written in


def rows_of(rng: random.Random, n: int) -> list[dict]:
    "Good rows."
    rows = []
    for i in range(n):
        sides = {p: rng.choice("+-0") for p in PAIRS}
        pick = {s: [p for p, side in sides.items() if side == s] for s in "+-"}
        row = dict(file_name=f"{i}.png", caption=f"bowl, no. {i}; \u9762")
        rows.append(row | dict(positive=pick["+"], negative=pick["-"]))
    return rows


def jsonl(rows, rng):
    return ".jsonl", "\n".join(json.dumps(r, ensure_ascii=rng.random() < 0.5) for r in rows)


def array(rows, rng):
    return rng.choice([".json", ".jsonl"]), json.dumps(rows, indent=rng.choice([None, 1]))


def spread(rows, rng):
    return rng.choice([".json", ".jsonl"]), "\n".join(json.dumps(r, indent=2) for r in rows)


def table(rows, cell, rng, separator):
    columns = list(dict.fromkeys(k for r in rows for k in r))
    out = io.StringIO()
    lines = csv.writer(out, delimiter=separator, lineterminator=rng.choice(["\n", "\r\n"]))
    lines.writerow(columns)
    for row in rows:
        lines.writerow([cell(row.get(c)) for c in columns])
    return rng.choice([".csv", ".tsv"]), out.getvalue()


def sheet(rows, rng):
    joint, separator = rng.choice([";", ", ", "; ", "|", "\n"]), rng.choice(",;\t|")

    def cell(value):
        plain = isinstance(value, list) and all(isinstance(v, str) for v in value)
        return joint.join(value) if plain else "" if value is None else value

    return table(rows, cell, rng, separator)


def pandas(rows, rng):
    def cell(value):
        return rng.choice([str, json.dumps])(value) if isinstance(value, list) else value

    return table(rows, cell, rng, rng.choice(",;\t"))


def wide_rows(rows, rng, values):
    out = []
    for row in rows:
        r = {k: v for k, v in row.items() if k not in ("positive", "negative")}
        for p in PAIRS:
            lists = [
                row.get(s) if isinstance(row.get(s), list) else [] for s in ("positive", "negative")
            ]
            r[p] = values[0 if p in lists[0] else 1 if p in lists[1] else 2]
        pair, junk = r.pop("cell", None) or (None, None)
        if pair:
            r[pair] = junk
        out.append(r)
    return out


def wide(rows, rng):
    values = rng.choice([(1, -1, 0), ("+1", "-1", ""), ("positive", "negative", "absent")])
    rows = wide_rows(rows, rng, values)
    if rng.random() < 0.2:  # a header that is nearly an id: its labels must not be lost
        old = rng.choice(list(PAIRS))
        i, slug = rng.randrange(1, len(old)), old.rpartition("/")[2]
        new = rng.choice(
            [old[:i] + old[i + 1 :], old.upper(), slug.title(), PAIRS[old][0], f"{old}s"]
        )
        rows = [{new if k == old else k: v for k, v in row.items()} for row in rows]
    return rng.choice([jsonl, array, sheet])(rows, rng)


HOLDS_LABELS = (
    "annotations",
    "result",
    "value",
    "choices",
    "from_name",
    "was_cancelled",
    0,
    1,
    2,
    3,
)


def studio(rows, rng):
    tasks = []
    rows = [{k: v for k, v in row.items() if k != "cell"} for row in rows]
    for i, row in enumerate(wide_rows(rows, rng, ("positive", "negative", None))):
        result = []
        for p in PAIRS:
            if side := row.pop(p):
                value = {"choices": [side]}
                result.append(dict(type="choices", from_name=p, to_name="i", value=value))
        row["image"] = f"/data/upload/1/0123abcd-{row.pop('file_name', 'x')}"
        answers = [dict(id=i, was_cancelled=False, result=result)]
        tasks.append(dict(id=i, data=row, annotations=answers))
    if rng.random() < 0.3:
        spot = rng.choice(tasks)
        while isinstance(spot, (dict, list)) and spot:
            key = rng.choice(list(spot) if isinstance(spot, dict) else range(len(spot)))
            if rng.random() < 0.3 and key != "image":
                spot[key] = rng.choice(JUNK) if key not in HOLDS_LABELS else "junk"
                break
            spot = spot[key]
    return ".json", json.dumps(tasks)


FORMS = [jsonl, array, spread, sheet, pandas, wide, studio]
PLAIN = (jsonl, array, spread)  # the forms that keep any value of a row as it is

# ---- what is done to rows, bytes and trees


# what a cell of a sheet means, where it is not a plain list; all other text is refused
LISTS = {"": [], " ": [], "['props' 'colour']": ["props", "colour"], "{}": []}


def column(row: dict, name: str) -> str:
    "The column of a row that is read under a name."
    others = dict(file_name=["image"], caption=["text", "prompt"]).get(name, [])
    spelt = {c.strip().casefold(): c for c in row}
    return next((spelt[n] for n in (name, *others) if n in spelt), name)


def sides(row: dict, form) -> tuple[list, list]:
    "The labels that a row gives in a form; [None] where they are no ids."
    values = [row.get(column(row, s)) for s in ("positive", "negative")]
    if form in (wide, studio):
        if form is wide and row.get("cell"):
            return [None], [None]
        return tuple([p for p in PAIRS if p in v] if isinstance(v, list) else [] for v in values)
    if form in (sheet, pandas):
        values = [[] if v in (None, {}) else v for v in values]
    values = [LISTS.get(v, [None]) if isinstance(v, str) else v for v in values]
    return tuple(v if isinstance(v, list) else [None] for v in values)


def truth(rows: list[dict], data: Path, form) -> dict:
    "The labels that rows give, by the hash of their images; rows whose labels are wrong give none."
    found = {}
    for row in rows:
        name, given = row.get(column(row, "file_name")), sides(row, form)
        good = all(isinstance(v, str) and v in PAIRS for side in given for v in side)
        if good and isinstance(name, str) and re.fullmatch(r"\d\.png", name):
            digest = hashlib.sha256((data / name).read_bytes()).digest()
            found.setdefault(digest, []).append(tuple(map(set, given)))
    return found


def junk_value(rows, rng):
    row, column = rng.choice(rows), rng.choice(["file_name", "caption", "positive", "negative"])
    row[column] = rng.choice(NAMES if column == "file_name" and rng.random() < 0.6 else JUNK)


def drop_key(rows, rng):
    column = rng.choice(["file_name", "caption", "positive", "negative"])
    for row in rows if rng.random() < 0.5 else [rng.choice(rows)]:
        row.pop(column, None)


def further_column(rows, rng):
    column = rng.choice(
        ["", "text", "prompt", "image", "split", "light/directoin", "Props", "id", "year"]
    )
    column = rng.choice([column, "light", "raking side light", "data", "annotations", "Caption"])
    values = rng.choice([JUNK, ["train", "test", "val"], [0, 1, -1], [1890]])
    for row in rows:
        row[column] = rng.choice(values)


def renamed_column(rows, rng):
    old = rng.choice(["file_name", "caption", "positive", "negative"])
    new = rng.choice(["image", "text", "prompt", "title", "Caption", "pos", old.upper(), f" {old}"])
    for row in rows:
        if old in row:
            row[new] = row.pop(old)


def repeated_row(rows, rng):
    rows.append(dict(rng.choice(rows)) | rng.choice([{}, dict(caption="again")]))


def opposite_copy(rows, rng):
    row = rng.choice(rows)
    sides = dict(positive=row.get("negative", []), negative=row.get("positive", []))
    rows.append(dict(row) | sides)


def no_label(rows, rng):
    for row in rows:
        row |= dict(positive=[], negative=[]) if rng.random() < 0.7 else {}


def junk_cell(rows, rng):
    "A cell of a table with one column a pair that says nothing certain; other forms have none."
    junk = [2, True, "yes", "x", "+2", [1], {"a": 1}, "positive negative", "1,0", 0.5, "nan"]
    rng.choice(rows)["cell"] = (rng.choice(list(PAIRS)), rng.choice(junk))


ON_ROWS = [
    junk_cell,
    junk_value,
    junk_value,
    drop_key,
    further_column,
    renamed_column,
    repeated_row,
]
ON_ROWS += [opposite_copy, no_label]
PIECES = [
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b'"',
    b"'",
    b"\n",
    b"\r",
    b",",
    b";",
    b"[",
    b"{" * 300,
]
PIECES += [
    b"[" * 100_000,
    b"x" * (1 << 21),
    b"9" * 6000,
    b"NaN",
    b"\xed\xa0\x80",
    b"sep=;\n",
    b"---",
]


def broken_bytes(data: bytes, rng) -> bytes:
    "Cut, add to, double or move a part of a file."
    i, j = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    ways = [data[:i], data[:i] + data[j:], data[:j] + data[i:], data[i:], data[j:] + data[:i]]
    return rng.choice([*ways, *(data[:i] + rng.choice(PIECES) + data[i:] for _ in range(5))])


def broken_tree(rng) -> bytes:
    "The tree with a fault in its values or in its bytes."
    top = tree()
    text = yaml.safe_dump(top, allow_unicode=True, sort_keys=False)
    if rng.random() < 0.5:
        spot = rng.choice([top, *top["children"], top["children"][0]["children"][0]])
        key = rng.choice([*spot, "children", "extra"])
        spot[key] = rng.choice([*JUNK, [spot], "a, b", "x" * 200, "---"])
        spot = json.loads(json.dumps(top, default=str)) if rng.random() < 0.1 else top
        try:
            text = yaml.safe_dump(spot, allow_unicode=True, sort_keys=False)
        except (RecursionError, yaml.YAMLError):
            text = "id: [" * 5000
        return text.encode()
    more = [
        "\n---\nid: b\n",
        "\n&a [*a]\n",
        "\n!!python/object:os.system x\n",
        "\n\t- x\n",
        "\n{{{{",
    ]
    text = rng.choice(
        [text + rng.choice(more), text.replace(": ", ":", 3), text.replace("id:", "ID:")]
    )
    data = text.encode(rng.choice(["utf-8", "utf-16", "utf-8-sig"]))
    return data if rng.random() < 0.5 else broken_bytes(data, rng)


# ---- folders


def make_images(data: Path, n: int) -> None:
    "Images that differ, and what only looks like one."
    data.mkdir(parents=True)
    for i in range(n):
        Image.new("RGB", (64, 64), (i * 9 % 256, i, 99)).save(data / f"{i}.png")
    (data / "empty.png").touch()
    (data / "text.png").write_text("no image")
    (data / "sub").mkdir()
    (data.parent / "secret.png").write_bytes((data / "0.png").read_bytes())
    (data / "out.png").symlink_to(data.parent / "secret.png")
    (data / "loop.png").symlink_to(data / "loop.png")
    os.mkfifo(data / "pipe.png")


def as_parquet(rows, data: Path, rng) -> None:
    "Write rows as parquet, images embedded or not."
    rows, names = json.loads(json.dumps(rows)), rng.random() < 0.3
    for row in rows:
        name = row.get("file_name")
        if not names and isinstance(name, str) and (data / name).is_file() and "\0" not in name:
            row["image"] = {"bytes": (data / row.pop("file_name")).read_bytes(), "path": None}
    pq.write_table(pa.Table.from_pylist(rows), data / "train-0.parquet")


def in_splits(rows, data: Path, rng) -> None:
    "Write rows and images into folders of splits."
    for row in rows:
        folder = data / rng.choice(["train", "test", "val"])
        folder.mkdir(exist_ok=True)
        name = row.get("file_name")
        if isinstance(name, str) and name[:-4].isdigit() and (data / name).is_file():
            shutil.copy(data / name, folder / name)
        with open(folder / "metadata.jsonl", "a") as f:
            print(json.dumps(row), file=f)


def write(folder: Path, seed: str) -> dict | None:
    "Write one hostile dataset; the labels that may be loaded."
    rng, data = random.Random(seed), folder / "data"
    rows = rows_of(rng, n := rng.randrange(1, 7))
    make_images(data, n)
    text = yaml.safe_dump(tree(), allow_unicode=True).encode()
    (folder / "tree.yaml").write_bytes(text if rng.random() < 0.8 else broken_tree(rng))
    form = rng.choice(FORMS)
    for _ in range(rng.randrange(3)):
        rng.choice(ON_ROWS)(rows, rng)
    if rng.random() < 0.2:
        rows = [{k: v for k, v in row.items() if k != "cell"} for row in rows]
        writer, labels = rng.choice([as_parquet, in_splits]), truth(rows, data, jsonl)
        try:
            writer(rows, data, rng)
            return labels
        except (pa.ArrowException, OSError, ValueError, OverflowError):
            pass  # parquet has no column of several types: another form then
    for path in [
        p for p in data.iterdir() if p.suffix == ".parquet" or p.name in ("train", "test", "val")
    ]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if form not in (wide, studio):
        rows = [{k: v for k, v in row.items() if k != "cell"} for row in rows]
    labels = truth(rows, data, form)
    suffix, text = form(rows, rng)
    encoding = rng.choice(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
    raw = text.encode(encoding, "replace")
    if rng.random() < 0.3:
        raw, labels = broken_bytes(raw, rng), None
    if rng.random() < 0.1:
        for name in ("a.txt", *(f"{i}.txt" for i in range(n))):
            (data / name).write_bytes(
                rng.choice([b"a bowl", b"", b"two\nlines", b"\xff", b"x" * 70_000])
            )
    (data / f"metadata{suffix}").write_bytes(raw)
    return labels


def mutations(seed: int, n: int):
    "Pairs (name, write), the same ones for the same seed."
    for k in range(n):
        yield f"table-{seed}-{k}", partial(write, seed=f"{seed}-{k}")


def outcome(folder: Path, labels: dict | None) -> str:
    "What is wrong with the way in which a hostile dataset is loaded; empty when nothing is."
    for on_error in ("raise", "skip"):
        try:
            splits = load_paintings(folder / "data", folder / "tree.yaml", on_error=on_error)
        except CpoError as e:
            if len(str(e)) > 20_000 or not str(e).isprintable() and "\n" not in str(e):
                return f"a message that cannot be printed: {str(e)[:200]!r}"
            continue
        except Exception as e:
            return f"{type(e).__name__}: {str(e)[:300]}"
        for row in (
            [r for part in splits.values() for r in _raw(part)] if labels is not None else ()
        ):
            given = (set(row["positive"]), set(row["negative"]))
            if given not in labels.get(row["digest"], []):
                return f"labels {given} where the file gives {labels.get(row['digest'])}"
    return ""


def _raw(part) -> list[dict]:
    "The rows of a split with the hash of their images' bytes."
    import datasets

    rows = part.cast_column("image", datasets.Image(decode=False)) if len(part) else []
    out = []
    for row in rows:
        cell = row["image"]
        data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        out.append(row | dict(digest=hashlib.sha256(data).digest()))
    return out
