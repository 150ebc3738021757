"""Secret texts as they are stored."""

import itertools
import re

import pytest

from gateway.errors import SecretUnreadable, SettingsError
from gateway.settings import IN_CLEAR, Secrets
from gateway.store.sealing import Sealing, name_in, name_of, new_key
from tests.fakes import SECRET

OLD, NEW = new_key(), new_key()


def test_a_text_comes_back():
    """What is stored shows nothing of it, is never the same twice, and bears its key's name."""
    sealing = Sealing([NEW])
    for text in (SECRET, '{"Authorization":"Bearer ü"}'):
        stored, again = sealing.seal(text), sealing.seal(text)
        assert stored != again
        assert text not in stored
        assert name_in(stored) == name_of(NEW) == sealing.current
        assert sealing.open(stored, of="wh_1") == text
        assert sealing.is_current(stored)


def test_without_a_key_texts_are_stored_in_clear():
    """And so they are with `clear` as the first, whatever other keys there are; what is empty is always."""
    for keys in ([], [IN_CLEAR], [IN_CLEAR, NEW]):
        sealing = Sealing(keys)
        assert sealing.seal(SECRET) == SECRET
        assert sealing.current is None
        assert sealing.is_current(SECRET)
    assert Sealing([NEW]).seal("") == ""
    assert Sealing([NEW]).is_current("")


def test_what_was_in_clear_is_read_as_it_is():
    """But it is not as it would be stored now."""
    assert Sealing([NEW]).open(SECRET, of="wh_1") == SECRET
    assert not Sealing([NEW]).is_current(SECRET)


def test_the_first_key_encrypts_and_all_decrypt():
    """Also behind `clear`."""
    stored = Sealing([OLD]).seal(SECRET)
    for keys in ([NEW, OLD], [IN_CLEAR, OLD], [OLD, NEW]):
        sealing = Sealing(keys)
        assert sealing.open(stored, of="wh_1") == SECRET
        assert sealing.is_current(stored) == (keys[0] == OLD)


@pytest.mark.parametrize("keys", [[], [IN_CLEAR], [NEW]])
def test_a_key_that_is_lacking_is_named(keys: list[str]):
    """The sentence names the setting and the key, and shows neither the key nor what was stored."""
    stored = Sealing([OLD]).seal(SECRET)
    sealing = Sealing(keys)
    with pytest.raises(SecretUnreadable, match=rf"key {name_of(OLD)}, and secrets\.encryption_key has ") as refused:
        sealing.open(stored, of="wh_1")
    assert OLD not in str(refused.value)
    assert stored[20:] not in str(refused.value)
    with pytest.raises(SecretUnreadable):
        sealing.require([name_of(OLD)])
    Sealing([OLD]).require([name_of(OLD)])


@pytest.mark.parametrize("damage", [lambda text: text[:-8], lambda text: text[:40] + "A" + text[41:], lambda text: text + "ü"])
def test_what_is_damaged_says_whose_it_is(damage):
    """The key is there, and does not fit."""
    stored = Sealing([OLD]).seal(SECRET)
    with pytest.raises(SecretUnreadable, match=r"endpoint wh_1 is damaged") as refused:
        Sealing([OLD]).open(damage(stored), of="wh_1")
    assert refused.value.__cause__ is None


def test_nodes_that_can_read_each_others_secrets_agree():
    """The last step of each way to introduce or to change a key begins where all nodes know both."""
    steps = [[], [IN_CLEAR, OLD], [OLD], [OLD, NEW], [NEW, OLD], [NEW]]
    for before, after in itertools.pairwise(steps):
        one, other = Sealing(before), Sealing(after)
        one.require_agreement([("b", other.told)])
        other.require_agreement([("a", one.told)])


def test_nodes_that_cannot_are_told_apart():
    """Whichever of them starts is refused: the one whose key the other lacks, and the one that lacks the other's."""
    with pytest.raises(SettingsError, match=rf"its first key, {name_of(NEW)}, is not known to a, b, also at work"):
        Sealing([NEW, OLD]).require_agreement([("b", Sealing([OLD]).told), ("a", Sealing([]).told), ("c", Sealing([NEW]).told)])
    with pytest.raises(SettingsError, match=rf"lacks the key {name_of(NEW)}, with which c encrypts"):
        Sealing([]).require_agreement([("c", Sealing([NEW]).told)])
    with pytest.raises(SettingsError, match="is not known to old"):  # one of a version that tells of no keys
        Sealing([NEW]).require_agreement([("old", [])])
    Sealing([]).require_agreement([("old", [])])


def test_a_new_key_is_one():
    """The settings take it; no two are the same, and its name tells nothing of it."""
    key = new_key()
    assert Secrets(encryption_key=(key,)).encryption_key == (key,)
    assert key != new_key()
    assert re.fullmatch("[0-9a-f]{8}", name_of(key))
    assert name_of(key) not in key
