"""A paying child under strace: which system calls a payment makes, and what it says when one fails."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import IO, Any

import msgspec

from edgegw.access.keys import SigningKey, create_signing_key
from edgegw.core.records import Request
from tests.crash.judge import Halted, Judge
from tests.crash.paying_child import KEY_NAME
from tests.crash.workload import BOX, Told

ROOT = Path(__file__).parents[2]
WAL_PAGES = 12
"""A checkpoint within a few payments, so that its calls are among those that are killed."""
PAYMENTS = 3
EVERYTHING = 10**9


class Child:
    """The process, and what it has told so far."""

    def __init__(self, home: Path, *, seed: int = 1, wal_pages: int = WAL_PAGES) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self.key: SigningKey = create_signing_key(home / KEY_NAME, BOX)
        self.told = Told()
        self.errors: list[str] = []
        self.paid = 0
        self.batches = 0
        self.gone = False
        command = [sys.executable, "-m", "tests.crash.paying_child", str(home), str(seed), str(wal_pages)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.loop_thread = self.commit_thread = 0
        self.hear("ready")

    def order(self, word: str, count: int) -> None:
        """Let it pay; hear everything until it is done or gone."""
        try:
            _pipe(self.process.stdin).write(f"{word} {count}\n".encode())
            _pipe(self.process.stdin).flush()
        except BrokenPipeError:
            self.gone = True
            return
        self.hear("done")

    def hear(self, last: str) -> None:
        """Take what it says until it says `last`, or says no more."""
        for line in _pipe(self.process.stdout):
            words: list[Any] = msgspec.json.decode(line)
            if words[0] == "told":
                self.paid += 1
                request = msgspec.convert(words[2], Request)
                self.told.requests[words[1], request.id] = request
                self.told.answers[words[1], request.id] = words[3].encode()
            elif words[0] == "error":
                self.errors.append(words[1])
            elif words[0] == "ready":
                self.loop_thread, self.commit_thread, self.batches = words[1:]
                self.paid = 0
            elif words[0] == "done":
                self.batches = words[1]
            if words[0] == last:
                return
        self.gone = True

    def end(self) -> int:
        """Kill it if it still lives; its status."""
        self.process.kill()
        self.hear("")
        status = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                _pipe(pipe).close()
            except BrokenPipeError:
                continue
        return status

    def wrong(self) -> list[str]:
        """What is wrong with the ledger that it left."""
        judge = Judge(self.told, key=self.key)
        try:
            return judge.judge(self.home / "data", self.home / "outside", told_size=EVERYTHING, deep=True)
        except Halted as halted:
            return [f"halts with {halted}"]


class Tracer:
    """strace on one thread of a child; `calls` is what it saw, `injected` how often it did something."""

    def __init__(self, thread: int, log: Path, *options: str) -> None:
        self._log = log
        command = ["strace", "-p", str(thread), "-o", str(log), *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.said = self._process.stderr.readline()
        assert "attached" in self.said, self.said

    def end(self, *, gone: bool) -> None:
        """Let the thread go; of one that is gone strace writes the end down and ends by itself."""
        if not gone:
            self._process.terminate()
        self._process.communicate(timeout=30)

    @property
    def calls(self) -> Counter[str]:
        """How often each system call began."""
        return Counter(re.findall(r"^(\w+)\(", self._log.read_text(errors="replace"), re.MULTILINE))

    @property
    def injected(self) -> int:
        """How often a call was tampered with, or ended by the signal."""
        text = self._log.read_text(errors="replace")
        return text.count("(INJECTED)") + text.count("(DELAYED)") + text.count("+++ killed by SIGKILL")


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
