"A person at a browser: logs in, labels, submits. Chromium without a window, driven by playwright."

import os, shutil, tempfile, time
from contextlib import contextmanager
from pathlib import Path

FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --disable-dev-shm-usage"
).split()
WORDS = ("positive", "negative", "absent")


def chromium():
    "The system's browser, or None."
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = filter(None, map(shutil.which, names))
    return next((program for program in found if not is_snap(program)), None)


def is_snap(program):
    "Whether a program is Ubuntu's snap, which sees no other HOME, or the stub that asks for it."
    with open(program, "rb") as f:
        return "snap" in Path(program).resolve().parts[-1] or b"/snap/" in f.read(4096)


def launch(playwright, **how):
    "Playwright's own Chromium where it is installed, else the system's."
    from playwright.sync_api import Error

    try:
        return playwright.chromium.launch(**how)
    except Error as error:
        if "Executable doesn't exist" not in str(error):
            raise
        return playwright.chromium.launch(executable_path=chromium(), **how)


@contextmanager
def open_browser():
    "Chromium, with a new folder for everything that it keeps."
    from playwright.sync_api import sync_playwright

    # a proxy that leads nowhere stands in the tests' environment: Chromium would use it
    environ = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with sync_playwright() as p, tempfile.TemporaryDirectory() as home:
        environ["HOME"] = home
        browser = launch(p, headless=True, args=FLAGS, env=environ)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    "Somebody with an account of a server."

    def __init__(self, browser, url, width=1440, height=900):
        self.url, self.outside = url, []
        self.page = browser.new_context(viewport=dict(width=width, height=height)).new_page()
        self.page.set_default_timeout(120_000)  # the machine may be busy
        self.page.on("request", self._note)

    def _note(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def log_in(self, email, password):
        self.page.goto(f"{self.url}/user/login/")
        self._send(email, password)

    def sign_up(self, email, password):
        self.page.goto(f"{self.url}/user/signup/")
        self._send(email, password)

    def _send(self, email, password):
        self.page.fill("input[name=email]", email)
        self.page.fill("input[name=password]", password)
        self.page.click("button[type=submit]")
        self.page.wait_for_url(lambda url: "/user/" not in url)

    def open(self, path, rows):
        "Open a page with a form of so many pairs; seconds until the form is there, from the task."
        arrived = [time.monotonic()]

        def note(request):
            if "id=next_task" in request.url:
                arrived.append(time.monotonic())

        self.page.on("requestfinished", note)
        self.page.goto(self.url + path)
        self.page.wait_for_function(
            "n => document.querySelectorAll('.cpo-pair').length >= n", arg=rows
        )
        self.page.remove_listener("requestfinished", note)
        return time.monotonic() - arrived[-1]

    def thread_seconds(self, path, rows):
        "Seconds that the page's main thread works until the form is there, other programs aside."
        session = self.page.context.new_cdp_session(self.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        self.open(path, rows)
        found = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
        session.detach()
        return found["TaskDuration"]

    def wait_for_task(self, number):
        "Until the queue shows the task of a number."
        number_shown = r"document.body.innerText.match(/\n(\d+)\n\d+ of \d/)?.[1]"
        self.page.wait_for_function(f"n => {number_shown} == n", arg=number)

    def row(self, number):
        return self.page.locator(".cpo-pair").nth(number)

    def choose(self, number, word):
        "Answer a pair, by its number in the tree."
        box = self.row(number).locator(".ant-checkbox-wrapper").nth(WORDS.index(word))
        box.click()

    def chosen(self, number):
        "What is marked in the row of a pair."
        boxes = self.row(number).locator(".ant-checkbox-wrapper")
        checked = [
            "ant-checkbox-wrapper-checked" in boxes.nth(i).get_attribute("class") for i in range(3)
        ]
        return [word for word, is_checked in zip(WORDS, checked) if is_checked]

    def wait_for_choice(self, number, word):
        "Until an answer that the server has is shown."
        at = f".cpo-pair >> nth={number} >> .lsf-choice >> nth={WORDS.index(word)}"
        self.page.wait_for_selector(f"{at} >> .ant-checkbox-wrapper-checked")

    def press(self, button):
        "Press Submit, Update or Skip, and wait until the server has it."
        with self.page.expect_response(lambda r: "/annotations" in r.url and r.ok):
            self.page.locator(f"button:has-text('{button}')").first.click()

    def key(self, name, saves=False):
        if not saves:
            return self.page.keyboard.press(name)
        with self.page.expect_response(lambda r: "/annotations" in r.url and r.ok):
            self.page.keyboard.press(name)
