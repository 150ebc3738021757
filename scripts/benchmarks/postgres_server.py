"""A private PostgreSQL server, made from Debian's binaries: on loopback, as a user other than root, in a directory of its own
that is removed with it. The tests have theirs from here, too."""

import contextlib
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self, TypedDict
from urllib.parse import quote, urlsplit

StopMode = Literal["smart", "fast", "immediate"]

PATIENCE_SECONDS = 60.0
_SIGNALS: Mapping[StopMode, signal.Signals] = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "log_min_messages": "warning",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_lock_waits": "on",
    "log_timezone": "UTC",
}
# Ends a server and removes its directory when its standard input closes, however whoever started it ended: an exit handler
# would not outlive a SIGKILL, and the kernel's own parent-death signal follows the thread that started the process. The working
# directory tells that a process is still the one that wrote its id there.
_WATCHDOG = """
directory=$1 folder=$2 pid_file=$3 signal=$4
read -r _
pid=$(head -n 1 "$pid_file")
while [ "$(readlink "/proc/$pid/cwd")" = "$folder" ]; do
    kill -s "$signal" "$pid"
    sleep 0.05
done
rm -rf "$directory"
"""


class BinariesMissingError(Exception):
    """This machine has no such program; the sentence says which, and how to get it."""


class ServerError(Exception):
    """A private server, or a program that speaks to it, failed; with what it said."""


class _User(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


def unprivileged() -> _User:
    """Whom servers run as, for `subprocess`: they refuse root, so then as an account that may do nothing; else as ourselves."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            account = pwd.getpwnam(name)
            return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    raise BinariesMissingError("a private PostgreSQL cannot run as root, and there is no account 'postgres' or 'nobody'.")


def find_program(name: str, package: str, folders: Sequence[Path] = ()) -> Path:
    """The program *name*, from the first of *folders* that has it, or else from PATH and where Debian keeps servers."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", os.defpath), "/usr/sbin"])
    found = shutil.which(name, path=path)
    if found is None:
        raise BinariesMissingError(f"there is no {name} on this machine; on Debian and Ubuntu: apt-get install {package}.")
    return Path(found)


def free_port() -> int:
    """A port that nobody listens on, below those that the kernel hands out: it stays free while a server restarts."""
    for port in random.sample(range(20_000, 30_000), 1000):
        with socket.socket() as candidate, contextlib.suppress(OSError):
            candidate.bind(("127.0.0.1", port))
            return port
    raise ServerError("no port between 20000 and 30000 is free.")


def wait_until(claim: Callable[[], bool], words: str) -> None:
    """Returns when *claim* holds: for facts of other processes that only asking again can tell."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not claim():
        if time.monotonic() > until:
            raise ServerError(f"waited {PATIENCE_SECONDS:g} s for: {words}")
        time.sleep(0.005)


@dataclass(frozen=True)
class Binaries:
    """PostgreSQL's programs."""

    folder: Path
    version: int

    @classmethod
    def find(cls) -> Self:
        """The newest that Debian's packages installed, or else the one on PATH."""
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: float(folder.parent.name), reverse=True)
        folder = find_program("initdb", "postgresql", installed).resolve().parent
        for name in ("postgres", "psql"):
            find_program(name, "postgresql", [folder])
        words = subprocess.run([folder / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
        version = re.search(r"\d+", words)
        assert version is not None, words
        return cls(folder=folder, version=int(version[0]))

    def has_library(self, name: str) -> bool:
        """Whether a server can load the library *name*, as of an extension, from where Debian puts them."""
        return (self.folder.parent / "lib" / f"{name}.so").exists()


class PostgresServer:
    """The server: one superuser for the owner's own business, and a role `gateway` that owns its databases and is nothing more.

    Everything blocks. Nothing is left of the server, however the process that opened it ends.
    """

    def __init__(self, binaries: Binaries, directory: Path, settings: Mapping[str, str]) -> None:
        self._binaries = binaries
        self._psql = find_program("psql", "postgresql", [binaries.folder])
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = directory
        self.data = directory / "postgres"
        self.log = directory / "postgres.log"
        self.port = free_port()
        self.password = f"{secrets.token_hex(8)}:/@%?"  # what a URL can only hold encoded
        self._admin_password = secrets.token_hex(16)
        self._settings = {
            **_SETTINGS,
            **settings,
            "port": str(self.port),
            "unix_socket_directories": str(directory),
        }

    @classmethod
    @contextlib.contextmanager
    def open(cls, parent: Path | None = None, settings: Mapping[str, str] | None = None) -> Iterator[Self]:
        """A running server below *parent*, with *settings* beside its defaults and no database but its own, until the context
        is left."""
        binaries = Binaries.find()
        with private_directory("postgres", "postmaster.pid", "QUIT", parent=parent) as directory:
            server = cls(binaries, directory, settings or {})
            server._make()
            server._start()
            try:
                server.run_sql(server.admin_url(), f"CREATE ROLE gateway LOGIN PASSWORD '{server.password}'")
                yield server
            finally:
                server._stop("immediate")

    @property
    def version(self) -> int:
        """Its major version."""
        return self._binaries.version

    @property
    def pid(self) -> int:
        """The process that all others of the server are children of."""
        assert self._process is not None, "the server does not run"
        return self._process.pid

    def url(self, database: str) -> str:
        """Where the gateway finds *database*."""
        return f"postgresql://gateway:{quote(self.password, safe='')}@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str) -> str:
        """The same through the unix socket."""
        host = quote(str(self.directory), safe="")
        return f"postgresql://gateway:{quote(self.password, safe='')}@/{database}?host={host}&port={self.port}"

    def admin_url(self, database: str = "postgres") -> str:
        """The same as the superuser, which the gateway is not."""
        return f"postgresql://admin:{self._admin_password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> str:
        """The URL of a new and empty database."""
        # Copies less than the checkpoints of the older way cost.
        strategy = "STRATEGY wal_log" if self.version >= 15 else ""
        self.run_sql(self.admin_url(), f"CREATE DATABASE {name} OWNER gateway {strategy}")
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Removes a database, whoever is still connected."""
        self.run_sql(self.admin_url(), f"DROP DATABASE IF EXISTS {database_of(url)} WITH (FORCE)")

    def run_sql(self, url: str, sql: str) -> str:
        """What *sql*, one statement or several, prints: a line for each row, its columns parted by `|`."""
        command: list[str | Path] = [self._psql, "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", url]
        done = subprocess.run(command, input=sql, env=_environment(), check=False, capture_output=True, encoding="utf-8")
        if done.returncode != 0:
            raise ServerError(f"{sql}: {done.stderr.strip()}")
        return done.stdout.rstrip("\n")

    def log_since(self, offset: int) -> str:
        """What the server logged after the first *offset* bytes of its log."""
        with self.log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def ensure_running(self) -> None:
        """Starts it if it was left stopped, or has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            self._start()

    def crash(self) -> None:
        """Ends it as a power cut does, and starts it again: it recovers from its log first."""
        self._stop("immediate")
        self._start()

    def _make(self) -> None:
        passwords = self.directory / "password"
        passwords.write_text(self._admin_password, encoding="ascii")
        passwords.chmod(0o644)  # root writes it, and another reads it
        command: list[str | Path] = [self._binaries.folder / "initdb", "--pgdata", self.data, "--auth=scram-sha-256"]
        command += [
            "--username=admin",
            f"--pwfile={passwords}",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]
        if self.version >= 15:
            # Texts sort as in a language, so that a query which leans on another order without saying so is found out.
            command += ["--locale-provider=icu", "--icu-locale=en"]
        done = subprocess.run(
            command, cwd=self.directory, env=_environment(), check=False, capture_output=True, text=True, **unprivileged()
        )
        if done.returncode != 0:
            raise ServerError(f"initdb: {done.stderr.strip()}")
        with (self.data / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _start(self) -> None:
        assert self._process is None, "the server runs already"
        with self.log.open("ab") as log:
            process = self._process = start_server([self._binaries.folder / "postgres", "-D", self.data], self.data, log)
        try:
            wait_until(lambda: self._is_ready(process), "PostgreSQL to take connections")
        except BaseException:
            self._stop("immediate")
            raise

    def _is_ready(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise ServerError(f"PostgreSQL did not start: {self.log_since(0)}")
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        # A crash leaves the file of the server before.
        return len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready"

    def _stop(self, mode: StopMode) -> None:
        process, self._process = self._process, None
        if process is None:
            return  # its user stopped it
        process.send_signal(_SIGNALS[mode])
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise ServerError(f"PostgreSQL did not stop ({mode}) within {PATIENCE_SECONDS:g} s: {self.log_since(0)}") from None


def start_server(command: Sequence[str | Path], folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A server of its own in *folder*, out of reach of the terminal's Ctrl-C: whoever uses it still needs it to end."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        **unprivileged(),
    )


@contextlib.contextmanager
def private_directory(folder: str, pid_file: str, end: str, *, parent: Path | None = None) -> Iterator[Path]:
    """A directory below *parent* that belongs to whom servers run as, and is removed when the context is left.

    A server that works in its *folder* and has its process id in *pid_file* there gets the signal *end* first.
    """
    directory = own_folder(Path(tempfile.mkdtemp(prefix="private-server-", dir=parent)).resolve())
    try:
        with subprocess.Popen(
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", directory, directory / folder, directory / folder / pid_file, end],
            cwd="/",
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **unprivileged(),
        ):
            yield directory
    finally:
        # Emptied by now; out of a parent that is another's it can only be taken by that one.
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()


def own_folder(folder: Path) -> Path:
    """*folder*, made when need be, as belonging to whom servers run as."""
    folder.mkdir(mode=0o700, exist_ok=True)
    whom = unprivileged()
    if "user" in whom:
        os.chown(folder, whom["user"], whom["group"])
    return folder


def database_of(url: str) -> str:
    """The name of the database that *url* leads to."""
    return urlsplit(url).path.removeprefix("/")


def _environment() -> dict[str, str]:
    """Nothing of the person's own settings for PostgreSQL, and messages in English."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
