"An expert agent against server processes: it resumes after a kill, and survives a bad server."

import collections, json, os, re, signal, subprocess, sys, threading, time
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from cpo_nb.annotations import read_annotations
from cpo_nb.backbone import load_backbone
from cpo_nb.cli import app
from cpo_nb.criteria import load_criteria
from cpo_nb.phrases import phrase_questions
from cpo_nb.pipelines import tiny_pipeline

HERE = Path(__file__).resolve().parent
TREE = """
id: small
name: Small
children:
- {id: light, name: Light, children: [
    {id: span, name: Span, positive: full span, negative: washed out, definition: Look at it.},
    {id: edge, name: Edge, positive: crisp edges, negative: soft edges, definition: Look at it.}]}
- {id: colour, name: Colour, children: [
    {id: accord, name: Accord, positive: in accord, negative: at odds, definition: Look at it.}]}
"""


@pytest.fixture
def serve(tmp_path):
    "Start a server of a mode: its address and the log of what it answered."
    started = []

    def start(mode="good", seconds=0.0):
        log = tmp_path / f"served-{len(started)}.log"
        log.touch()
        command = [sys.executable, str(HERE / "chat_server.py"), str(log), mode, str(seconds)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return f"http://127.0.0.1:{started[-1].stdout.readline().strip()}/v1", log

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(24):
        Image.new("RGB", (16, 16), (10 * i, 0, 0)).save(folder / f"{i:02}.png")
    (tmp_path / "tree.yaml").write_text(TREE)
    return folder


def words(images, url, *more):
    return [
        *f"annotate agent --images {images} --criteria {images.parent}/tree.yaml".split(),
        *f"--endpoint {url} --model stand-in --answers {images.parent}/answers.jsonl".split(),
        *more,
    ]


def ask(images, url, *more, code=0):
    result = CliRunner().invoke(app, words(images, url, *more), prog_name="cpo")
    assert result.exit_code == code, result.output
    return result.output


def test_nothing_that_is_on_record_is_asked_again_after_a_kill(serve, images):
    url, log = serve(seconds=0.05)
    record = images.parent / "answers.jsonl"
    command = [sys.executable, "-c", "from cpo_nb.cli import app; app(prog_name='cpo')"]
    process = subprocess.Popen([*command, *words(images, url, "--in-flight", "4")])
    while not record.exists() or record.read_bytes().count(b"\n") < 12:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = record.read_bytes()
    known = whole[: whole.rfind(b"\n") + 1].count(b"\n")
    assert 12 <= known < 48
    record.write_bytes(whole + b'{"key": "half a li')  # killed in the middle of a line
    time.sleep(0.2)  # what was under way reaches the server's log
    before = len(log.read_text().splitlines())
    out = ask(images, url)
    assert f"{48 - known} calls to ask, {known} known" in out
    assert "48 complete" in out
    asked = collections.Counter(line.rsplit(" ", 1)[0] for line in log.read_text().splitlines())
    assert len(asked) == 48
    assert sum(asked.values()) - before == 48 - known  # only what the record had not
    assert sum(n > 1 for n in asked.values()) <= 4  # under way at the kill
    ask(images, url)
    assert len(log.read_text().splitlines()) == sum(asked.values())
    table = read_annotations(images)
    assert (len(table), table.annotators) == (24 * 3, ("agent:stand-in",))
    assert abs(table.confidence - 0.9).max() < 0.01


def test_a_bad_server_costs_attempts_and_no_answers(serve, images):
    url, _ = serve("bad")
    out = ask(images, url, "--timeout", "1", "--in-flight", "24")
    assert "48 answers: " in out
    counts = dict((k, int(n)) for n, k in re.findall(r"(\d+) (complete|refused|malformed)", out))
    assert counts["complete"] == 48, out
    replies = [json.loads(l)["reply"] for l in (images.parent / "answers.jsonl").open()]
    seen = collections.Counter(r["status"] for r in replies if r["attempt"] == 1)
    assert seen["malformed"] and seen["partial"] and seen["refused"]  # first attempts, on record
    assert len(read_annotations(images)) == 24 * 3


def test_a_server_that_hangs_ends_in_one_message(serve, images):
    url, _ = serve("hang")
    out = ask(images, url, "--timeout", "0.3", "--retries", "1", code=2)
    assert "does not answer: no response in 0.3 s" in out
    assert not (images.parent / "answers.jsonl").exists()


@pytest.mark.parametrize("command", ["annotate agent", "annotate caption", "criteria draft"])
def test_answers_that_could_not_be_kept_are_not_asked_for(serve, images, command):
    url, log = serve()
    notes = images.parent / "notes.txt"
    notes.write_text("+ crisp edges everywhere")
    what = dict.fromkeys(["annotate agent", "annotate caption"], f"--images {images}")
    what |= {"criteria draft": f"{notes} --out {images.parent}/draft.yaml"}
    tree = f"--criteria {images.parent}/tree.yaml" if command == "annotate agent" else ""
    line = f"{command} {what[command]} {tree} --endpoint {url} --model m --answers /proc/x/a.jsonl"
    result = CliRunner().invoke(app, line.split(), prog_name="cpo")
    assert result.exit_code == 2 and "cannot be written" in result.output, result.output
    assert log.read_text() == ""


def test_the_key_is_nowhere(serve, images, monkeypatch):
    url, _ = serve()
    monkeypatch.setenv("CPO_API_KEY", "sk-secret-1234")
    out = ask(images, url, "--limit", "2")
    texts = [p.read_text(errors="replace") for p in images.parent.rglob("*.jsonl")]
    assert "secret" not in out + "".join(texts)
    assert len(texts) == 2


def test_captions_are_asked_for_once(serve, images):
    url, log = serve()
    (images / "00.txt").write_text("By hand.")
    line = words(images, url)
    line[1] = "caption"
    line[4:6] = []  # --criteria
    runner = CliRunner()
    assert "1 there before, 23 written" in runner.invoke(app, line, prog_name="cpo").output
    assert "24 there before" in runner.invoke(app, line, prog_name="cpo").output
    assert len(log.read_text().splitlines()) == 23
    assert (images / "00.txt").read_text() == "By hand."
    assert len({p.read_text() for p in images.glob("*.txt")}) == 24


@pytest.mark.parametrize("mode", ["good", "bad"])
def test_a_model_finds_the_phrases_of_a_draft_and_is_asked_once(serve, tmp_path, mode):
    url, log = serve(mode)
    text = tmp_path / "critiques.txt"
    text.write_text("\n".join("+ " + f"line {i} of praise, " * 40 for i in range(40)))
    out = f"criteria draft {text} --endpoint {url} --model stand-in --answers {tmp_path}/a.jsonl"
    out += f" --in-flight 1 --timeout 1 --out {tmp_path}"
    first = CliRunner().invoke(app, f"{out}/one.yaml".split(), prog_name="cpo").output
    sent = len(log.read_text().splitlines())
    counts = {k: int(n) for n, k in re.findall(r"(\d+) answers? (\w+)", first)}
    assert sum(counts.values()) == len(phrase_questions(text.read_text())) == 8, first
    assert bool(counts.keys() - {"complete"}) == (mode == "bad"), first
    again = CliRunner().invoke(app, f"{out}/two.yaml".split(), prog_name="cpo").output
    assert len(log.read_text().splitlines()) == sent  # nothing is asked twice
    assert {k: int(n) for n, k in re.findall(r"(\d+) answers? (\w+)", again)} == counts
    pairs = load_criteria(tmp_path / "one.yaml").pairs
    assert ("crisp edges", "dissolving edges") in {(p.positive, p.negative) for p in pairs}
    CliRunner().invoke(app, f"{out}/three.yaml --again".split(), prog_name="cpo")
    assert len(log.read_text().splitlines()) == sent + 8 - counts["complete"]


def test_only_images_without_a_caption_are_described(serve, images):
    url, log = serve()
    names = [p.name for p in sorted(images.glob("*.png"))]
    rows = [dict(file_name=n, caption="In the table." if i else "") for i, n in enumerate(names)]
    (images / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = f"annotate caption --images {images} --endpoint {url} --model stand-in"
    line += f" --answers {images.parent}/a.jsonl"
    out = CliRunner().invoke(app, line.split(), prog_name="cpo").output
    assert "23 there before, 1 written" in out
    CliRunner().invoke(app, words(images, url), prog_name="cpo")
    merge = f"annotate merge --images {images} --criteria {images.parent}/tree.yaml --captions"
    CliRunner().invoke(app, f"{merge} table,model".split(), prog_name="cpo")
    merged = [json.loads(line)["caption"] for line in (images / "metadata.jsonl").open()]
    assert merged[0].startswith("Image ") and set(merged[1:]) == {"In the table."}


def interrupt_at(folder: Path, lines: int):
    "Press Ctrl-C once so many answers are on record."
    while sum(p.read_bytes().count(b"\n") for p in folder.rglob("agent/*.jsonl")) < lines:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def settled(log: Path) -> int:
    "Lines of the server's log once what was under way has reached it."
    seen = -1
    while seen != (now := len(log.read_text().splitlines())):
        seen = now
        time.sleep(1.5)
    return now


def test_an_agent_judges_an_evaluation_and_is_asked_nothing_twice(serve, images, monkeypatch):
    "The stand-in's answers are made of hashes; the report calls them by its name."
    work = images.parent
    monkeypatch.setenv("CPO_CACHE", str(work / "cache"))
    tiny_pipeline(work / "pipe")
    backbone = load_backbone(work / "pipe")
    backbone.add_adapter("policy", 2)
    for p in backbone.adapter_parameters("policy").values():
        p.data += 0.05
    backbone.save_adapter("policy", work / "policy", dict(labelled_by=["stand-in"]))
    (work / "prompts.txt").write_text("an oak\na tower\n")
    url, log = serve(seconds=0.5)
    line = f"evaluate --base {work}/pipe --adapter {work}/policy --prompts {work}/prompts.txt"
    line += f" --seeds {','.join(map(str, range(12)))} --steps 1 --criteria {work}/tree.yaml"
    line += f" --judge agent --endpoint {url} --model stand-in --scores none --out {work}/report"

    def judge():
        result = CliRunner().invoke(app, line.split(), prog_name="cpo")
        return result.exit_code, result.output, len(log.read_text().splitlines())

    threading.Thread(target=interrupt_at, args=(work / "cache", 20), daemon=True).start()
    code, out, _ = judge()
    assert (code, "interrupted" in out) == (130, True), out
    before = settled(log)
    known = len(next((work / "cache").rglob("agent/*.jsonl")).read_text().splitlines())
    sampled = {path.read_bytes() for path in (work / "report").rglob("*.png")}
    questions = 2 * len(sampled)  # by root
    assert 20 <= known < questions
    code, out, asked = judge()
    assert code == 0, out
    assert f"{questions - known} calls to ask, {known} known" in out
    assert asked - before == questions - known
    assert "Self-judged: agent:stand-in labelled" in out
    assert judge()[2] == asked
    report = json.loads((work / "report/report.json").read_text())
    assert report["judges"][0]["name"] == "agent:stand-in"


def test_help_needs_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from cpo_nb.cli import app\n"
        "print(CliRunner().invoke(app, ['annotate', 'agent', '--help']).output[:6])\n"
        "print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
