"""Kernels that start with the large libraries imported: forks of one process that holds them.

Importing torch, diffusers and transformers is half of the time of a short notebook. The tests
start one such process; each notebook still runs in a process of its own, with nothing of this
package imported.

usage: python tools/warm_kernels.py serve SOCKET           prints "ready", then forks on request
       python tools/warm_kernels.py start SOCKET FILE      a kernel; lives as long as its fork
"""

import contextlib, json, os, signal, socket, subprocess, sys, threading
from pathlib import Path

LIBRARIES = (
    "torch",
    "transformers.models.clip.modeling_clip",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "peft",
    "accelerate",
    "datasets",
    "pydantic",
    "scipy.linalg",
    "ipykernel.kernelapp",
)


def command(
    server: Path,  # the socket of `warm_kernels`
    file: str,  # the kernel's connection file
) -> list[str]:  # a command line
    "What starts a kernel."
    # without site-packages: it only passes on where the kernel shall run
    return [sys.executable, "-S", "-E", "-s", __file__, "start", str(server), file]


@contextlib.contextmanager
def warm_kernels(
    folder: Path,  # where the socket is made; a short path
    env: dict[str, str],  # variables of the process; a kernel brings its own
):
    "Gives the path of the socket that `command` takes."
    path = folder / "warm"
    argv = [sys.executable, __file__, "serve", str(path)]
    server = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, text=True)
    try:
        if server.stdout.readline() != "ready\n":
            raise RuntimeError("the process that holds the libraries did not start")
        yield path
    finally:
        server.kill()
        server.wait()


def serve(path: str) -> None:
    "Import, then fork a kernel for each connection."
    for name in LIBRARIES:
        __import__(name)
    assert "cpo_nb" not in sys.modules  # a notebook imports the package anew
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended kernels leave no zombies
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run_kernel(connection)
        connection.close()


def run_kernel(connection: socket.socket) -> None:
    "Become the kernel that the other end asks for, and end with it."
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    with connection.makefile("r") as lines:
        request = json.loads(lines.readline())
    os.environ.clear()
    os.environ.update(request["env"])
    os.environ.pop("JPY_PARENT_PID", None)  # the parent is another process here
    os.chdir(request["cwd"])
    import tempfile, time

    tempfile.tempdir = None
    time.tzset()
    threading.Thread(target=end_with, args=(connection,), daemon=True).start()
    sys.argv = ["ipykernel_launcher", *request["argv"], "--HistoryManager.enabled=False"]
    from ipykernel import kernelapp

    code = 1
    try:
        kernelapp.launch_new_instance()
        code = 0
    finally:
        os._exit(code)


def end_with(connection: socket.socket) -> None:
    "Kill this kernel and what it started when the other end is gone."
    connection.recv(1)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def start(path: str, file: str, *options: str) -> None:
    "Ask for a kernel, and wait for its end."
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    request = dict(env=dict(os.environ), cwd=os.getcwd(), argv=["-f", file, *options])
    connection.sendall(json.dumps(request).encode() + b"\n")
    connection.recv(1)


if __name__ == "__main__":
    dict(serve=serve, start=start)[sys.argv[1]](*sys.argv[2:])
