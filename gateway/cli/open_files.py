"""How many files the gateway may have open at once: each connection is one, to a client, to an endpoint or to the store."""

import resource

from gateway.settings import Settings

_OTHER_FILES = 128  # the store's, the listeners, what an interpreter has open


def files_needed(settings: Settings) -> int:
    """At the most, with these settings."""
    return settings.http.max_connections + settings.delivery.max_in_flight + _OTHER_FILES


def files_allowed() -> int:
    """What this process may raise its limit to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _number(hard)


def allow_files(needed: int) -> int:
    """Raises this process's limit to *needed*, as far as it may; the limit from then on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _number(soft) < needed:
        soft = min(needed, _number(hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return _number(soft)


def _number(limit: int) -> int:
    return 2**62 if limit == resource.RLIM_INFINITY else limit
