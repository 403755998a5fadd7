"A real Label Studio: started, labelled in by a browser, and the same attributes come back."

import json, os, signal
from pathlib import Path

from PIL import Image
from studio_commands import account, cpo, free_port

from cpo_nb.annotations import Annotation, append_annotations, image_files, read_annotations
from cpo_nb.core import error_from
from cpo_nb.criteria import load_criteria

ROOT = Path(__file__).resolve().parents[2]


def said(folder):
    "Annotations of a folder: {(file, annotator): {pair: value}}."
    table, files, found = read_annotations(folder), image_files(folder), {}
    names = {digest: name for name, digest in files.items()}
    for i, p, a, v in zip(table.image, table.pair, table.annotator, table.value):
        key = names[table.images[i]], table.annotators[a]
        found.setdefault(key, {})[table.pairs[p]] = int(v)
    return found


def test_from_images_to_annotations_and_back_again(oaks, browser, start):
    from browser import Person

    tree, files = oaks.parent / "tree.yaml", image_files(oaks)
    agent = [Annotation(files["0.png"], p, v, "agent:tiny", 0.8) for p, v in
             (("light/edge", 1), ("accord", 0))]  # fmt: skip
    append_annotations(oaks, agent)
    given = ("--images", oaks, "--criteria", tree)
    server = start(*given, "--account", "anna@example.org", "--people", 2)
    out = server.wait()
    assert "4 images added" in out
    email, password = account(oaks.with_name("oaks-studio"))
    assert email == "anna@example.org" and password not in out
    anna = Person(browser, server.url)
    anna.log_in(email, password)
    anna.open("/projects/1/data?labeling=1", 3)

    assert anna.page.locator(".cpo-image img").first.is_visible()
    assert [anna.chosen(i) for i in range(3)] == [["positive"], [], ["absent"]]  # as suggested
    anna.choose(1, "negative")
    anna.press("Submit")  # 0.png
    anna.wait_for_task(2)
    anna.press("Skip")  # 1.png
    anna.wait_for_task(3)
    anna.key("1")  # the first choice's key
    anna.key("Alt+1")  # the rest of Light was looked at
    anna.key("Control+Enter", saves=True)  # 2.png

    first = said_after_import(oaks, given)
    assert first["0.png", "anna"] == {"light/edge": 1, "light/glow": -1, "accord": 0}
    assert first["2.png", "anna"] == {"light/edge": 1, "light/glow": 0}
    assert first["0.png", "agent:tiny"] == {"light/edge": 1, "accord": 0}
    assert set(first) == {("0.png", "anna"), ("2.png", "anna"), ("0.png", "agent:tiny")}
    assert "0 new annotations" in cpo("annotate", "studio", "import", *given)

    anna.open("/projects/1/data?task=3", 3)
    anna.wait_for_choice(0, "positive")
    anna.choose(0, "negative")
    anna.press("Update")
    assert said_after_import(oaks, given)["2.png", "anna"] == {"light/edge": -1, "light/glow": 0}

    ben = Person(browser, server.url)  # a second annotator of the same image
    ben.sign_up("ben@example.org", "a good password 1")
    ben.open("/projects/1/data?labeling=1", 3)
    ben.wait_for_task(1)
    ben.choose(0, "negative")
    ben.press("Submit")
    both = said_after_import(oaks, given)
    assert both["0.png", "anna"] == first["0.png", "anna"]
    assert both["0.png", "ben"] == {"light/edge": -1, "accord": 0}
    assert anna.outside == ben.outside == []  # nothing came from elsewhere

    assert server.stop() == 0
    assert "import them: cpo annotate studio import" in server.log.read_text()
    port = ("--port", free_port())  # now it is started for the import alone
    out = cpo("annotate", "studio", "import", *given, *port)
    assert "starting Label Studio" in out and "0 new annotations" in out


def said_after_import(folder, given):
    cpo("annotate", "studio", "import", *given)
    return said(folder)


def test_suggestions_follow_new_annotations_and_answers_stay(oaks, browser, start):
    from browser import Person

    from cpo_nb.studio_server import StudioClient, ask_studio

    given = ("--images", oaks, "--criteria", oaks.parent / "tree.yaml")
    files = image_files(oaks)

    def say(who, file, **values):
        looks = [Annotation(files[file], p.replace("_", "/"), v, who) for p, v in values.items()]
        append_annotations(oaks, looks)

    def suggested(client):
        "{(task, annotator): {pair: word}}"
        found = ask_studio(client, "GET", "/api/predictions", project=1)
        words = lambda p: {r["from_name"]: r["value"]["choices"][0] for r in p["result"]}  # noqa: E731
        return {(p["task"], p["model_version"]): words(p) for p in found}

    def answered(client):
        "Everything that people's answers hold and that time does not change."
        (found,) = ask_studio(client, "GET", "/api/tasks/1/annotations")
        return {k: found[k] for k in ("id", "result", "completed_by", "created_at", "updated_at")}

    say("agent:tiny", "0.png", light_edge=1)
    server = start(*given)
    assert "filled in by agent:tiny" in server.wait()
    folder = oaks.with_name("oaks-studio")
    token = json.loads((folder / "account.json").read_text())["token"]
    client = StudioClient(server.url, token)
    value = dict(from_name="light/edge", to_name="image", type="choices")
    answer = dict(result=[value | dict(value=dict(choices=["negative"]))], lead_time=1.0)
    (seen,) = ask_studio(client, "GET", "/api/predictions", project=1)
    answer["parent_prediction"] = seen["id"]  # given while this suggestion was shown
    ask_studio(client, "POST", "/api/tasks/1/annotations", answer)
    own = dict(result=answer["result"], model_version="another program")
    ask_studio(client, "POST", "/api/predictions", own | dict(task=1, project=1))
    before = answered(client)
    cpo("annotate", "studio", "import", *given)  # now annotations.jsonl has what a person said

    say("agent:tiny", "0.png", light_edge=-1, accord=1)
    say("agent:tiny", "1.png", accord=0)
    say("measures-labeller", "1.png", light_glow=1)
    told = cpo("annotate", "studio", "export", *given, "--project", f"{server.url}/projects/1")
    assert "3 suggestions new or changed" in told
    expected = {
        (1, "agent:tiny"): {"light/edge": "negative", "accord": "positive"},
        (1, "another program"): {"light/edge": "negative"},
        (2, "agent:tiny"): {"accord": "absent"},
        (2, "measures-labeller"): {"light/glow": "positive"},
    }
    assert suggested(client) == expected
    assert server.stop() == 0

    say("agent:tiny", "2.png", light_edge=1)
    server = start(*given)
    assert "1 suggestion new or changed" in server.wait()
    client = StudioClient(server.url, token)
    assert suggested(client) == expected | {(3, "agent:tiny"): {"light/edge": "positive"}}
    assert answered(client) == before
    anna = Person(browser, server.url)
    anna.log_in(*account(folder))
    anna.open("/projects/1/data?labeling=1", 3)  # task 1 is done
    anna.wait_for_task(2)
    assert [anna.chosen(i) for i in range(3)] == [[], [], ["absent"]]


def test_the_form_of_246_pairs_is_there(tmp_path, browser, start):
    from browser import Person

    from cpo_nb.atelier import sample_scenes
    from cpo_nb.painter import paint

    folder = tmp_path / "paintings"
    folder.mkdir()
    painted = Image.fromarray(paint(sample_scenes(1, 3), 1)[0])
    painted.resize((512, 512), Image.Resampling.LANCZOS).save(folder / "1.png")
    server = start("--images", folder)
    server.wait()
    anna = Person(browser, server.url)
    anna.log_in(*account(tmp_path / "paintings-studio"))
    page = "/projects/1/data?labeling=1"
    waits = [anna.open(page, 246) for _ in range(3)]  # waits for 246 choices
    works = anna.thread_seconds(page, 246)
    print(f"seconds from task to form: {waits}; the whole page works {works:.2f}")
    for i, word in enumerate(("positive", "negative", "absent")):
        anna.choose(i, word)
    assert [anna.chosen(i) for i in range(4)] == [["positive"], ["negative"], ["absent"], []]
    if goal := os.environ.get("CPO_STUDIO_PICTURE"):
        anna.page.wait_for_timeout(500)
        anna.page.screenshot(path=goal)


def test_a_blind_comparison_comes_back_as_a_win_rate(tmp_path, browser, start):
    from browser import Person

    for j, side in enumerate(("base", "policy")):
        (tmp_path / side).mkdir()
        rows = [dict(file_name=f"{i}.png", prompt=f"an oak {i}", seed=i) for i in range(3)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / side / "prompts.jsonl").write_text(lines)
        for i in range(3):
            Image.new("RGB", (64, 64), (60 * i, 200 * j, 0)).save(tmp_path / side / f"{i}.png")
    blind = tmp_path / "blind"
    sides = ("--base", tmp_path / "base", "--policy", tmp_path / "policy")
    cpo("annotate", "studio", "compare", *sides, "--out", blind)
    server = start("--comparison", blind)
    assert "3 images added" in server.wait()
    anna = Person(browser, server.url)
    anna.log_in(*account(blind / "studio"))
    anna.open("/projects/1/data?labeling=1", 0)
    key = json.loads((blind / "key.json").read_text())
    tasks = json.loads((blind / "tasks.json").read_text())
    wanted = ["policy", "equal", "base"]
    for number, (task, verdict) in enumerate(zip(tasks, wanted), 1):
        anna.wait_for_task(number)
        anna.page.wait_for_selector(".cpo-verdict .ant-checkbox-wrapper")
        text = anna.page.content()
        assert "policy" not in text and "/base" not in text
        on_left = key[task["data"]["pair"]]["left"]
        anna.key({"equal": "s"}.get(verdict, "a" if on_left == verdict else "d"))
        anna.key("Control+Enter", saves=True)
    cpo("annotate", "studio", "import", "--comparison", blind)
    found = json.loads((blind / "comparisons.json").read_text())
    by_pair = {c["seed"]: c["verdict"] for c in found["comparisons"]}
    seeds = [key[t["data"]["pair"]]["seed"] for t in tasks]
    assert [by_pair[seed] for seed in seeds] == wanted
    rate = found["win_rate"]
    assert (rate["wins"], rate["ties"], rate["losses"], rate["rate"]) == (1, 1, 1, 0.5)


def test_what_goes_wrong_ends_in_one_error(oaks, start):
    tree = oaks.parent / "tree.yaml"
    given = ("--images", oaks, "--criteria", tree)
    server = start(*given)
    server.wait()
    same = ("annotate", "studio", "start", *given)
    assert "in use" in cpo(*same, "--port", server.port, code=2)
    assert "runs already, at" in cpo(*same, "--port", free_port(), code=2)
    os.environ["LABEL_STUDIO_TOKEN"] = "wrong"
    try:
        out = cpo("annotate", "studio", "import", server.url, *given, code=2)
    finally:
        del os.environ["LABEL_STUDIO_TOKEN"]
    assert "the token is refused" in out and "Hint:" in out
    pid = server.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)  # Label Studio dies
    assert server.process.wait(60) == 2
    assert "Label Studio ended with exit code -9" in server.log.read_text()
    assert "Traceback" not in server.log.read_text()

    less = oaks.parent / "less.yaml"
    less.write_text(tree.read_text().replace("glow,", "gleam,"))
    out = cpo(*same[:3], "--images", oaks, "--criteria", less, "--port", free_port(), code=2)
    assert "1 pair that this tree has not" in out and "light/glow" in out
    vanished = oaks / "0.png"
    vanished.unlink()
    token = json.loads((oaks.with_name("oaks-studio") / "account.json").read_text())["token"]
    assert token not in out


def test_the_server_reaches_for_no_other_machine(oaks, tmp_path):
    from cpo_nb.studio import labelling_config, studio_tasks
    from cpo_nb.studio_project import StudioProject, exported, prepare_project
    from cpo_nb.studio_server import StudioClient, StudioFolder, ask_studio, running_server

    tree, folder, log = load_criteria(oaks.parent / "tree.yaml"), StudioFolder.of(oaks), tmp_path
    tasks = list(studio_tasks(image_files(oaks), folder.prefix, None, tree.id))
    wanted = StudioProject("oaks - oaks", labelling_config(tree), tasks)
    guard = dict(PYTHONPATH=str(ROOT / "tools" / "offline"), CPO_NETWORK_LOG=str(log / "net.txt"))
    with running_server(folder, free_port(), say=str, more=guard) as client:
        made, again = (prepare_project(client, folder, wanted) for _ in range(2))
        assert (made.added, again.added) == (4, 0)
        assert len(exported(client, made.project["id"])[1]) == 1
        wrong = StudioClient(client.url, "wrong")
        assert "refused" in str(error_from(lambda: ask_studio(wrong, "GET", "/api/projects")))
        personal = ask_studio(client, "POST", "/api/token", {})["token"]
        short = StudioClient(client.url, personal)  # exchanged for one of five minutes
        assert ask_studio(short, "GET", "/api/projects")["count"] == 1
    assert not (log / "net.txt").exists()
