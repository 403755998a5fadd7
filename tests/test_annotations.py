"Annotations survive a writer that is killed, and two writers at once."

import json, signal, subprocess, sys

import pytest

from cpo_nb.annotations import FILE, Annotation, append_annotations, read_annotations
from cpo_nb.core import CpoError
from filelock import FileLock

WRITER = """
import itertools, sys
from cpo_nb.annotations import Annotation, append_annotations, utc_now
for i in itertools.count():
    now = utc_now()
    rows = [Annotation(f"{i:064x}", f"pair-{j}", 1, sys.argv[2], None, now) for j in range(300)]
    append_annotations(sys.argv[1], rows)
    print(i, flush=True)
"""
TIME = "2026-11-28T09:30:00Z"


def start(folder, name):
    command = [sys.executable, "-c", WRITER, str(folder), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def look(i: int) -> list[Annotation]:
    return [Annotation(f"{i:064x}", pair, 1, "anna", 0.5, TIME) for pair in ("a", "b", "c")]


def test_two_writers_of_which_one_is_killed(tmp_path):
    writers = [start(tmp_path, "anna"), start(tmp_path, "ben")]
    told = [int(writer.stdout.readline()) for writer in writers for _ in range(5)]
    writers[0].send_signal(signal.SIGKILL)
    told.append(int(writers[1].stdout.readline()))  # the lock of a killed writer is free
    writers[1].send_signal(signal.SIGKILL)
    for writer in writers:
        writer.communicate()
    append_annotations(tmp_path, look(10**6))
    for line in (tmp_path / FILE).read_text().splitlines():
        assert len(json.loads(line)["values"]) in (300, 3)
    table = read_annotations(tmp_path)
    assert len(table) >= 300 * len(told) and (len(table) - 3) % 300 == 0


def test_cut_at_any_byte(tmp_path):
    append_annotations(tmp_path, look(0) + look(1))
    path = tmp_path / FILE
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (*range(0, len(whole), 17), first - 1, first, first + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        table = read_annotations(tmp_path)
        kept = first if cut >= first else 0
        assert (len(table), table.half_line) == (3 * (kept > 0), cut - kept)
        append_annotations(tmp_path, look(2))
        assert path.read_bytes().startswith(whole[:kept]) and len(read_annotations(tmp_path)) == (
            6 if kept else 3
        )


def test_a_writer_that_waits_in_vain(tmp_path):
    with FileLock(tmp_path / f".{FILE}.lock"):
        with pytest.raises(CpoError, match="another program is writing"):
            append_annotations(tmp_path, look(0), wait=0.1)
    assert not (tmp_path / FILE).exists()
