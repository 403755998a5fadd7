"Starting programs as a user does: alone, or by `accelerate launch` in several processes."

import os, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(
    seed: int | str = "random",  # of hashes, as `PYTHONHASHSEED` takes it
) -> dict[str, str]:
    "Variables of a process that a user starts."
    env = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "ACCELERATE", "FSDP"))
    }
    path = f"{ROOT}{os.pathsep}{os.environ['PYTHONPATH']}"
    return env | dict(
        PYTHONPATH=path, OMP_NUM_THREADS="1", TQDM_DISABLE="1", PYTHONHASHSEED=str(seed)
    )


def python(
    *words,  # a file or -m MODULE, and its arguments
    config: str | None = None,  # in configs/, for `accelerate launch`; None: alone
) -> list[str]:
    "A command line of this Python."
    launch = ["-m", "accelerate.commands.launch", "--main_process_port", "0"]
    launch += ["--config_file", str(ROOT / "configs" / f"{config}.yaml")]
    return [sys.executable, *(launch if config else []), *map(str, words)]
