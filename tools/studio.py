"""Test against a real Label Studio with a real browser: `make test-studio`.

Installs what is missing: Chromium by apt-get (Debian or Ubuntu, as root), the driver of the browser
into .venv/studio-tests, Label Studio into the cache. Then runs tests/studio.
"""

import os, shutil, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "studio"
DRIVER = ROOT / ".venv" / "studio-tests"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def run(*words, **more):
    return subprocess.run([str(w) for w in words], check=True, stdin=subprocess.DEVNULL, **more)


def have_browser():
    "Chromium, installed if need be and if that is possible."
    if any(map(shutil.which, BROWSERS)):
        return
    why = "make test-studio: there is no Chromium here, and the labelling form needs a browser."
    if not shutil.which("apt-get") or os.geteuid() != 0:
        sys.exit(f"{why} Install it (Debian: apt-get install chromium), then give it again.")
    print("installing Chromium", flush=True)
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    apt = ("apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")
    try:
        run(*apt, "update", env=environ, stdout=subprocess.DEVNULL)
        chromium = ("install", "-y", "--no-install-recommends", "chromium")
        run(*apt, *chromium, env=environ, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{why} apt-get could not install it (exit code {error.returncode}).")


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
    have_browser()
    have_driver()
    paths = [str(DRIVER), *filter(None, [os.environ.get("PYTHONPATH")])]
    environ = os.environ | {"CPO_STUDIO_TESTS": str(environments().parent)}
    environ["PYTHONPATH"] = os.pathsep.join(paths)
    words = [sys.executable, "-m", "pytest", str(TESTS), *sys.argv[1:]]
    sys.exit(subprocess.run(words, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL).returncode)


if __name__ == "__main__":
    main()
