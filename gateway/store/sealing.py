"""Secret texts as they are stored: encrypted (Fernet) and marked with the name of their key, or in clear. Pure.

The first key of `secrets.encryption_key` encrypts, all of them decrypt. What was stored before there was a key is in clear, and
is read as it is. A key's name is a short hash, which tells nothing of it: by it a store says which keys it needs."""

import functools
import hashlib
from collections.abc import Collection, Sequence

from cryptography.fernet import Fernet, InvalidToken

from gateway.errors import SecretUnreadable, SettingsError
from gateway.settings import IN_CLEAR, Secrets

OPENED_KEPT = 20_000
"""Texts that are kept decrypted: endpoints are read again and again."""

_MARK = "fernet:"
_NAME_LENGTH = 8


def new_key() -> str:
    """A new key, from the system's secure source."""
    return Fernet.generate_key().decode()


def name_of(key: str) -> str:
    """What a key is called."""
    return hashlib.sha256(b"gateway: name of a key\0" + key.encode()).hexdigest()[:_NAME_LENGTH]


def name_in(stored: str) -> str | None:
    """The name of the key that *stored* is encrypted with; None when it is in clear."""
    return stored[len(_MARK) :].partition(":")[0] if stored.startswith(_MARK) else None


class Sealing:
    """The keys at hand. Without any, texts are stored in clear."""

    def __init__(self, keys: Sequence[str] = ()) -> None:
        self._ciphers = {name_of(key): Fernet(key) for key in keys if key != IN_CLEAR}
        self.current = name_of(keys[0]) if keys and keys[0] != IN_CLEAR else None
        """The name of the key that encrypts; None: what is stored is in clear."""
        self._opened = functools.lru_cache(OPENED_KEPT)(self._decrypted)

    @classmethod
    def of(cls, secrets: Secrets) -> "Sealing":
        return cls(secrets.encryption_key)

    @property
    def told(self) -> Sequence[str]:
        """The names of the keys in their order, for other nodes to look at."""
        return [self.current or IN_CLEAR, *sorted(self._ciphers.keys() - {self.current})]

    def seal(self, text: str) -> str:
        """*text* as it is to be stored. What is empty holds no secret."""
        if self.current is None or not text:
            return text
        return f"{_MARK}{self.current}:{self._ciphers[self.current].encrypt(text.encode()).decode()}"

    def open(self, stored: str, *, of: str) -> str:
        """The text that *stored*, which belongs to the endpoint *of*, stands for. Raises SecretUnreadable."""
        if not stored.startswith(_MARK):
            return stored
        try:
            return self._opened(stored)
        except (InvalidToken, ValueError):  # the latter for what is no ASCII
            # Not chained: the cause would show nothing that helps.
            raise SecretUnreadable(
                f"what the store holds encrypted for the endpoint {of} is damaged: the key {name_in(stored)}, which it names, "
                f"does not decrypt it; restore the store from a backup"
            ) from None

    def _decrypted(self, stored: str) -> str:
        name, _, token = stored[len(_MARK) :].partition(":")
        self.require([name])
        return self._ciphers[name].decrypt(token).decode()

    def is_current(self, stored: str) -> bool:
        """Whether *stored* is as `seal` would store it now."""
        return not stored or name_in(stored) == self.current

    def require(self, names: Collection[str]) -> None:
        """Raises SecretUnreadable unless all the keys of these names are at hand."""
        if lacking := sorted(set(names) - self._ciphers.keys()):
            there = f"has only {', '.join(sorted(self._ciphers))}" if self._ciphers else "has no key"
            keys = f"keys {', '.join(lacking)}" if len(lacking) > 1 else f"key {lacking[0]}"
            raise SecretUnreadable(
                f"the store holds secrets that are encrypted with the {keys}, and secrets.encryption_key {there}: add what is "
                f"lacking to it, as the last one if another is to encrypt (`gateway secrets names` tells what each key is called)"
            )

    def require_agreement(self, nodes: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Raises SettingsError unless each of *nodes*, whose keys `told` has given, can decrypt what is encrypted here, and the
        other way round."""
        lacking = sorted({node for node, names in nodes if self.current is not None and self.current not in names})
        if lacking:
            raise SettingsError(
                f"secrets.encryption_key: its first key, {self.current}, is not known to {', '.join(lacking)}, also at work on "
                f"this store: give it to every node first, as the last of its keys (after `{IN_CLEAR}` where there are none); a "
                f"node that was killed counts until its lease ends"
            )
        unknown = {names[0]: node for node, names in nodes if names and names[0] not in {IN_CLEAR, *self._ciphers}}
        if unknown:
            name, node = min(unknown.items())
            raise SettingsError(f"secrets.encryption_key: lacks the key {name}, with which {node} encrypts on this store")
