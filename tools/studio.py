"""Test against a real Label Studio with a real browser: `make test-studio`.

Installs what is missing: the driver of the browser (playwright) into .venv/studio-tests, Chromium
where the system has none, Label Studio into the cache. Then runs tests/studio.

`python tools/studio.py --install` installs only, and takes the Chromium that playwright was made
for, with the system's libraries that it needs.
"""

import os, shutil, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "studio"
DRIVER = ROOT / ".venv" / "studio-tests"


def run(*words, **more):
    return subprocess.run([str(w) for w in words], check=True, stdin=subprocess.DEVNULL, **more)


def is_administrator():
    "Whether packages of the system can be installed without a question."
    if os.geteuid() == 0:
        return True
    quiet = dict(stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    asked = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], **quiet)
    return bool(asked) and asked.returncode == 0


def playwright_chromium():
    "Chromium as playwright offers it; where possible with the system's libraries that it needs."
    libraries = ["--with-deps"] if is_administrator() else []
    words = ("-m", "playwright", "install", *libraries, "--only-shell", "chromium")
    run(sys.executable, *words, env=os.environ | {"PYTHONPATH": str(DRIVER)})


def debian_chromium():
    "Chromium of Debian; Ubuntu's package of this name is a stub that asks for a snap."
    system = Path("/etc/os-release")
    is_debian = system.is_file() and "ID=debian" in system.read_text().splitlines()
    if not is_debian or os.geteuid() != 0:
        raise OSError("no Debian, or not root")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")
    run(*apt, "update", env=environ, stdout=subprocess.DEVNULL)
    chromium = ("install", "-y", "--no-install-recommends", "chromium")
    run(*apt, *chromium, env=environ, stdout=subprocess.DEVNULL)


def have_browser(own=False):
    "Chromium: the system's unless `own`, else installed, if that is possible."
    sys.path.insert(0, str(TESTS))
    from browser import chromium

    if chromium() and not own:
        return
    ways = (playwright_chromium, debian_chromium) if own else (debian_chromium, playwright_chromium)
    for install in ways:
        print(f"installing Chromium ({install.__name__.split('_')[0]})", flush=True)
        try:
            return install()
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"  {error}", flush=True)
    sys.exit(
        "make test-studio: there is no Chromium here, and the labelling form needs a browser. "
        "Install it (Debian: apt-get install chromium; Ubuntu: the package of Google Chrome), "
        "then give it again."
    )


def have_driver():
    "The driver, beside the environment: requirements.lock does not know it."
    wanted = (TESTS / "requirements.txt").read_text()
    stamp = DRIVER / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    shutil.rmtree(DRIVER, ignore_errors=True)
    print("installing the browser's driver", flush=True)
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--no-input", "--no-deps", "--target", DRIVER, "-r", TESTS / "requirements.txt")
    stamp.write_text(wanted)


def environments():
    "The folder of Label Studio's environments, made if need be."
    sys.path.insert(0, str(ROOT))
    from cpo_nb.studio_server import studio_environment

    began = time.monotonic()
    return studio_environment(
        lambda t: print(f"[{time.monotonic() - began:4.0f} s] {t}", flush=True)
    )


def main():
    is_install = sys.argv[1:] == ["--install"]
    have_driver()
    have_browser(own=is_install)
    if is_install:
        return environments()
    paths = [str(DRIVER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"CPO_STUDIO_TESTS": str(environments().parent)}
    environ["PYTHONPATH"] = os.pathsep.join(paths)
    words = [sys.executable, "-m", "pytest", str(TESTS), *sys.argv[1:]]
    sys.exit(subprocess.run(words, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL).returncode)


if __name__ == "__main__":
    main()
