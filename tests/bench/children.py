"""Processes of a bench: started, asked over a pipe, accounted for, ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import psutil

from tests.bench.rounds import Unavailable, WrongAnswer
from tests.waiting import wait_until

ROOT: Final = Path(__file__).resolve().parents[2]
BENCH_PYTHON: Final = ROOT / ".venv-bench" / "bin" / "python"
START_SECONDS: Final = 60.0
END_SECONDS: Final = 60.0


def bench_program(name: str) -> Path:
    """A program of `.venv-bench`; raises Unavailable where it is not installed."""
    path = BENCH_PYTHON.parent / name
    if not path.exists():
        raise Unavailable(f"{name} is not in .venv-bench: run .ci/setup-bench")
    return path


def environment(**more: str) -> dict[str, str]:
    """For a Python of ours: it finds the tree, and keeps compiled bytecode."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "", **more}


class Child:
    """A server in the background; its output goes to a log."""

    def __init__(
        self,
        words: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        end: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.log = log
        self._end = end
        with log.open("wb") as stream:
            self.popen = subprocess.Popen(
                [str(word) for word in words],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=cwd,
                user=user,
                env=dict(env or environment()),
            )

    @property
    def pid(self) -> int:
        """Of its first process."""
        return self.popen.pid

    def listens(self, port: int) -> None:
        """Wait until it takes connections."""
        wait_until(
            lambda: _answers(port) or self.popen.poll() is not None,
            f"port {port}",
            timeout_seconds=START_SECONDS,
        )
        if self.popen.poll() is not None:
            raise WrongAnswer(f"it ended at its start: {self.log.read_text(errors='replace')[-600:]}")

    def end(self) -> None:
        """End it and wait."""
        if self.popen.poll() is None:
            self.popen.send_signal(self._end)
            try:
                self.popen.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()


class Asked:
    """A Python process that takes one JSON line for a question and gives one for the answer."""

    def __init__(self, module: str, *words: str, log: Path, env: Mapping[str, str] | None = None) -> None:
        self._stream = log.open("wb")
        self._log = log
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stream,
            env=dict(env or environment()),
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; raises WrongAnswer where there is none."""
        stdin, stdout = self.popen.stdin, self.popen.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(question).encode() + b"\n")
        stdin.flush()
        return self._answer(stdout.readline())

    def first(self) -> dict[str, Any]:
        """What it says when it is ready."""
        assert self.popen.stdout is not None
        return self._answer(self.popen.stdout.readline())

    def _answer(self, line: bytes) -> dict[str, Any]:
        if not line:
            raise WrongAnswer(f"it ended: {self._log.read_text(errors='replace')[-800:]}")
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise WrongAnswer(answer["fault"])
        return answer

    def end(self) -> None:
        """Close its input and wait."""
        if self.popen.poll() is None and self.popen.stdin is not None:
            self.popen.stdin.close()
        try:
            self.popen.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        self._stream.close()


def kept(stack: ExitStack, child: Child | Asked) -> Any:
    """The same, ended with the stack."""
    stack.callback(child.end)
    return child


def cpu_s(pid: int) -> float:
    """Processor seconds of a process and all below it, the ended ones too."""
    total = 0.0
    for process in (one := psutil.Process(pid), *one.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return True
    except OSError:
        return False
