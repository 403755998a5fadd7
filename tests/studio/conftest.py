"What needs the real Label Studio and a browser runs by `make test-studio`, and is skipped elsewhere."

import json, os, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = os.environ.get("CPO_STUDIO_TESTS")  # the folder that tools/studio.py has prepared
TREE = """
id: oaks
name: Oaks
children:
- id: light
  name: Light
  children:
  - {id: edge, name: Edge, positive: crisp edges, negative: soft edges, definition: Look at edges.}
  - {id: glow, name: Glow, positive: warm glow, negative: flat light, definition: Look at light.}
- {id: accord, name: Accord, positive: in accord, negative: at odds, definition: Look at the hues.}
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if not ENVIRONMENTS and HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason="needs a browser: run `make test-studio`"))


@pytest.fixture(scope="session", autouse=True)
def environments():
    "Label Studio is there already: the cache of this run leads to it."
    if ENVIRONMENTS:
        cache = Path(os.environ["CPO_CACHE"])
        cache.mkdir(parents=True, exist_ok=True)
        if not (cache / "studio").exists():
            (cache / "studio").symlink_to(ENVIRONMENTS)


@pytest.fixture(scope="session")
def browser(environments):
    sys.path.insert(0, str(HERE))
    from browser import open_browser

    with open_browser() as found:
        yield found


@pytest.fixture
def oaks(tmp_path):
    "Four images and a tree of three pairs."
    folder = tmp_path / "oaks"
    folder.mkdir()
    for i in range(4):
        Image.new("RGB", (64, 48 + 16 * i), (60 * i, 90, 40)).save(folder / f"{i}.png")
    (tmp_path / "tree.yaml").write_text(TREE)
    return folder


def cpo(*words, code=0):
    "Run a command in a process of its own; what it says."
    line = [sys.executable, "-c", "from cpo_nb.cli import app; app(prog_name='cpo')", *words]
    done = subprocess.run([str(w) for w in line], capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Started:
    "A running `cpo annotate studio start`."

    def __init__(self, log, *words):
        self.log, self.port = log, free_port()
        line = [sys.executable, "-c", "from cpo_nb.cli import app; app(prog_name='cpo')"]
        line += ["annotate", "studio", "start", "--port", self.port, *words]
        with open(log, "w") as out:
            how = dict(stdout=out, stderr=subprocess.STDOUT)
            self.process = subprocess.Popen([str(w) for w in line], **how)
        self.url = f"http://localhost:{self.port}"

    def wait(self, seconds=200):
        "Until it says what to do; its words."
        end = time.monotonic() + seconds
        while "when done:" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.1)
        return self.log.read_text()

    def stop(self, sign=signal.SIGINT):
        "End it; its exit code."
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    "Start servers that end with the test."
    started = []

    def begin(*words):
        started.append(Started(tmp_path / f"start-{len(started)}.log", *words))
        return started[-1]

    yield begin
    for server in started:
        server.stop()


def account(folder):
    "E-mail address and password of a folder's server."
    found = json.loads((folder / "account.json").read_text())
    return found["email"], found["password"]
