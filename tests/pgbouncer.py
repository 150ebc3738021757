"""A private PgBouncer in transaction mode, between a test and its PostgreSQL."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from tests.postgres import (
    PostgresServer,
    ServerError,
    by_way_of,
    find_program,
    free_port,
    own_folder,
    private_directory,
    start_server,
    wait_until,
)

# Nothing is ignored that a session may ask for at its start, and a server connection goes from one client to the next as it is:
# what depends on a session's state fails here as it would in production.
_SETTINGS = """
[databases]
* = host=127.0.0.1 port={server_port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {folder}/users.txt
pidfile = {folder}/pgbouncer.pid
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
server_login_retry = 1
"""


class PgBouncer:
    """It passes on to its server, a connection for each transaction. For the role `gateway` alone."""

    def __init__(self, server: PostgresServer, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self.log = folder.parent / "pgbouncer.log"
        self.port = free_port()

    @classmethod
    @contextlib.contextmanager
    def open(cls, server: PostgresServer) -> Iterator[Self]:
        """Runs until the context is left, and outlives restarts of *server*."""
        program = find_program("pgbouncer", "pgbouncer")
        with private_directory("pgbouncer", "pgbouncer.pid", "KILL") as directory:
            bouncer = cls(server, own_folder(directory / "pgbouncer"))
            with bouncer._run(program) as process:
                try:
                    wait_until(lambda: bouncer._is_listening(process), "PgBouncer to listen")
                    yield bouncer
                finally:
                    process.kill()

    def url(self, database: str) -> str:
        """Where the gateway finds *database* of the server."""
        return self.by_way_of(self._server.url(database))

    def by_way_of(self, url: str) -> str:
        """The same for the *url* of a database of the server."""
        return by_way_of(self.port, url)

    def _run(self, program: Path) -> subprocess.Popen[bytes]:
        settings = self._folder / "pgbouncer.ini"
        users = self._folder / "users.txt"
        settings.write_text(
            _SETTINGS.format(server_port=self._server.port, port=self.port, folder=self._folder), encoding="ascii"
        )
        users.write_text(f'"gateway" "{self._server.password}"\n', encoding="ascii")
        for file in (settings, users):
            file.chmod(0o644)  # root writes it, and another reads it
        with self.log.open("ab") as log:
            return start_server([program, settings], self._folder, log)

    def _is_listening(self, process: subprocess.Popen[bytes]) -> bool:
        if process.poll() is not None:
            raise ServerError(f"PgBouncer did not start: {self.log.read_text(encoding='utf-8')}")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0
