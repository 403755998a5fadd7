"Commands in processes of their own."

import json, signal, socket, subprocess, sys, time


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


def account(folder):
    "E-mail address and password of a folder's server."
    found = json.loads((folder / "account.json").read_text())
    return found["email"], found["password"]
