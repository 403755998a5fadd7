"What needs Label Studio and a browser runs by `make test-studio`, and is skipped elsewhere."

import os
from pathlib import Path

import pytest
from PIL import Image

HERE = Path(__file__).resolve().parent
ENVIRONMENTS = os.environ.get("CPO_STUDIO_TESTS")  # the folder that tools/studio.py has prepared
TREE = (HERE / "tree.yaml").read_text()


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


@pytest.fixture
def start(tmp_path):
    "Start servers that end with the test."
    started = []

    def begin(*words):
        from studio_commands import Started

        started.append(Started(tmp_path / f"start-{len(started)}.log", *words))
        return started[-1]

    yield begin
    for server in started:
        server.stop()
