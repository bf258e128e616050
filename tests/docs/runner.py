"""Runs the blocks of a document, in order, as a reader would: in a checkout of its own, with servers on free ports."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.expected import same_json, same_text
from tests.docs.markdown import SHELL, Block
from tests.support import copy_repository, free_port, wait_until_ready

ADDRESS = re.compile(r"\b(?:localhost|127\.0\.0\.1|0\.0\.0\.0):(?P<port>\d{4,5})\b")
# These lines do not end by themselves: each is started on a free port and goes on beside the rest of the document.
SERVER = re.compile(
    r"(?:[A-Z_]+=\S+ )*(?:make serve\b|\S*python -m service\b|\S*\bfoldserve\b)(?!.*--help).*", re.DOTALL
)
SERVER_PORT = re.compile(r"\b(?P<option>(?:FOLDSERVE_)?PORT=|--port[= ])(?P<port>\d+)")
COMMENT = re.compile(r"(?:^|\s+)#.*")
DEFAULT_SERVER, DEFAULT_PORT = "make serve", 8000
# What would change the environment that the tests run in, or run the tests within the tests.
FORBIDDEN = re.compile(
    r"\bmake (?:clean|gpu|image|lock|test)\b|\b(?:pip|apt|apt-get|uv|conda) install\b|\bdocker\b|\bgit clone\b"
)


class DocumentationError(AssertionError):
    """A block that does not do what it shows."""


@dataclass
class Reader:
    """Somebody who follows one document.

    Attributes:
        folder: the checkout, made by `checkout`.
        ports: where the servers listen, by the port that the document names.
        printed: the standard output of the last block that was run.
    """

    folder: Path
    ports: dict[int, int] = field(default_factory=dict)
    printed: str | None = None
    _servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, block: Block) -> None:
        """Run a block, or compare it with what the one before printed.

        Raises:
            DocumentationError: a command failed, or printed something else than the document shows.
        """
        if block.kind == "skip":
            return
        if block.kind == "output":
            if self.printed is None:
                raise DocumentationError(f"{block}: no block before this output was run")
            self._compare(block, block.text, self.printed, block.language)
        elif block.kind == "instead":
            self.printed = self._shell(block, block.rest)
        elif block.language in SHELL:
            self.printed = self._shell(block, block.text)
        elif block.language == "python":
            self.printed = self._run(block, [".venv/bin/python", "-"], self._rewrite(block, block.text))
        elif block.language == "console":
            for command, output in dialogue(block):
                self.printed = self._shell(block, command)
                if output.strip():
                    self._compare(block, output, self.printed, "text")

    def leave(self) -> None:
        """Stop the servers."""
        for server in self._servers:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()

    def _shell(self, block: Block, script: str) -> str:
        if forbidden := FORBIDDEN.search(script):
            raise DocumentationError(
                f"{block}: `{forbidden.group()}` cannot run inside the tests; put a comment on the line before the "
                "block: <!-- test: skip REASON --> or <!-- test: instead COMMAND -->"
            )
        printed, pending = "", ""
        for line in logical_lines(script):
            command = COMMENT.sub("", line).strip()
            if SERVER.fullmatch(command):
                printed += self._bash(block, pending)
                pending = ""
                self._serve(block, command)
            else:
                pending += line
        return printed + self._bash(block, pending)

    def _bash(self, block: Block, script: str) -> str:
        if not script.strip():
            return ""
        return self._run(block, ["bash", "-euo", "pipefail", "-s"], self._rewrite(block, script))

    def _run(self, block: Block, command: list[str], script: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            input=script,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode != 0:
            raise DocumentationError(
                f"{block}: exit status {done.returncode}\n{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
            )
        return done.stdout

    def _rewrite(self, block: Block, script: str) -> str:
        """The script with the documented addresses replaced by those of the servers here, started where needed."""
        for match in ADDRESS.finditer(script):
            port = int(match["port"])
            if port not in self.ports and port == DEFAULT_PORT:
                self._serve(block, DEFAULT_SERVER)
        return ADDRESS.sub(lambda m: f"127.0.0.1:{self.ports.get(int(m['port']), m['port'])}", script)

    def _serve(self, block: Block, command: str) -> None:
        command = command.removesuffix("&").rstrip()
        named = SERVER_PORT.search(command)
        documented = int(named["port"]) if named else DEFAULT_PORT
        if documented in self.ports:
            return  # the document starts the same server again
        port = free_port()
        if named:
            command = SERVER_PORT.sub(rf"\g<option>{port}", command)
        elif "make serve" in command:
            command += f" PORT={port}"
        else:
            command += f" --port {port}"
        log = self.folder.parent / f"server-{port}.log"
        with log.open("wb") as output:
            server = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._servers.append(server)
        self.ports[documented] = port
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", lambda: server.poll() is None)
        except BaseException:
            sys.stderr.write(f"{block}: {command}\n{log.read_text(errors='replace')}")
            raise

    def _compare(self, block: Block, expected: str, actual: str, language: str) -> None:
        expected = ADDRESS.sub(lambda m: f"127.0.0.1:{self.ports.get(int(m['port']), m['port'])}", expected)
        if not (same_json if language == "json" else same_text)(expected, actual):
            raise DocumentationError(f"{block}: the document shows\n{expected}\nbut this was printed\n{actual}")

    def _environment(self) -> dict[str, str]:
        # What an outer make hands down is not part of what a reader has.
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("MAKE", "MFLAGS", "PYTHON")) and name not in ("ARGS", "PORT")
        }
        return inherited | {"PYTHONPATH": str(self.folder), "TF_CPP_MIN_LOG_LEVEL": "3"}


def checkout(folder: Path) -> Path:
    """A copy of this checkout whose `.venv` is the running environment, complete as `make` sees it.

    The links are to what is in the environment, not to the environment: `make` may remove them without harm.
    """
    copy_repository(folder)
    environment = folder / ".venv"
    environment.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if not entry.name.startswith("."):
            (environment / entry.name).symlink_to(entry)
    for stamp in (".python", ".serve", ".dev"):
        (environment / stamp).touch()
    return folder


def logical_lines(script: str) -> list[str]:
    """The lines of a script, those that end in a backslash together with the next."""
    return re.findall(r"(?:[^\n]*\\\n)*[^\n]*\n", script if script.endswith("\n") else script + "\n")


def dialogue(block: Block) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with what it is shown to print.

    Raises:
        DocumentationError: the block does not begin with `$ `.
    """
    steps: list[tuple[str, str]] = []
    for line in logical_lines(block.text):
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        elif not steps:
            raise DocumentationError(f"{block}: a console block begins with a command, after `$ `")
        else:
            steps[-1] = (steps[-1][0], steps[-1][1] + line)
    return steps
