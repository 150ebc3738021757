"""What went wrong when a connection could not be made, in words that name the cause and never repeat the URL, whose password is
nobody's to read. Pure, but for a look at the files that a URL names."""

import os
import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg

from gateway.errors import StoreTrouble, StoreUnavailable

# Parameters of a URL that name files; what the environment says for one that is not there has the same name behind PG.
_FILES = ("sslrootcert", "sslcrl", "sslcert", "sslkey")

# What the driver says of a URL may repeat any part of it. These do not, or only the name of a file or a parameter's value.
_ABOUT_PARAMETERS = (
    "root certificate file",
    "`sslmode`",
    "`sslnegotiation`",
    "direct TLS",
    "No such TLS version",
    "Unsupported TLS version",
)
_URL = (
    "the store's URL cannot be used: it has to be postgresql://USER:PASSWORD@HOST:PORT/DATABASE?PARAMETER=VALUE, and in a "
    "user's name and a password `:/@?#[]%` are written as %3A and so on"
)


def refusal(error: Exception, url: str) -> StoreUnavailable | None:
    """What *error* means, raised while connecting to *url*; None when it says enough by itself."""
    sentence: str | None = None
    match error:
        case asyncpg.UndefinedObjectError() | asyncpg.DataError() | asyncpg.CantChangeRuntimeParamError():
            sentence = f"the store's URL has a parameter that the server refuses: {error}"
        case asyncpg.PostgresError():
            sentence = f"the store's server refuses the connection: {error}"
        case asyncpg.ClientConfigurationError():
            sentence = _about_url(str(error.args[0]))
        case asyncpg.TargetServerAttributeNotMatched():
            sentence = "none of the servers of the store's URL is as its `target_session_attrs` asks"
        case OSError():
            sentence = _about_way(error, url)
        case ValueError() | LookupError():
            sentence = _URL
    return None if sentence is None else StoreUnavailable(sentence, StoreTrouble.UNREACHABLE)


def _about_url(words: str) -> str:
    if words.startswith("target_session_attrs"):
        return "the store's URL cannot be used: its `target_session_attrs` is none that there is"
    if not words.startswith(_ABOUT_PARAMETERS):
        return _URL
    hint = "; name one with `sslrootcert`" if words.startswith("root") else ""
    return f"the store's URL cannot be used: {words.splitlines()[0]}{hint}"


def _about_way(error: OSError, url: str) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of the store's server does not hold: {error.verify_message}"
    files = _files(url)
    if isinstance(error, (ssl.SSLError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)):
        for name, path in files.items():
            if fault := _fault_of(path):
                return f"the store's URL cannot be used: the file of `{name}`, {path}, cannot be read: {fault}"
    if isinstance(error, ssl.SSLError):
        named = f" (with {', '.join(f'`{name}` {path}' for name, path in files.items())})" if files else ""
        return f"TLS with the store's server fails: {error.reason or error.strerror}{named}"
    if isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error):  # it has no code of its own
        return "the store's server has no TLS, which the `sslmode` of the store's URL asks for"
    return None


def _files(url: str) -> dict[str, str]:
    """The files that *url*, or else the environment, names for TLS."""
    try:
        given = parse_qs(urlsplit(url).query)
    except ValueError:
        given = {}
    named = {name: given.get(name, [os.environ.get(f"PG{name.upper()}", "")])[-1] for name in _FILES}
    return {name: path for name, path in named.items() if path}


def _fault_of(path: str) -> str | None:
    try:
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return error.strerror
