"""`gateway secrets`: the keys that secrets are encrypted with in the store."""

import click

from gateway.cli.client import with_api
from gateway.cli.options import json_option, settings_options
from gateway.cli.output import print_json
from gateway.settings import IN_CLEAR, Settings


@click.group("secrets")
def command() -> None:
    """Make encryption keys, name them, and encrypt the store's secrets anew."""


@command.command("new-key")
def new_key() -> None:
    """Print a new key for `secrets.encryption_key`, alone. It is kept nowhere: whoever loses it loses what it encrypts."""
    from gateway.store import sealing  # noqa: PLC0415 - so that --help is quick

    click.echo(sealing.new_key())


@command.command("names")
@json_option
@settings_options
def names(*, settings: Settings, as_json: bool) -> None:
    """Print what the keys of `secrets.encryption_key` are called, in their order. A key's name tells nothing of it; the store
    bears it beside whatever the key has encrypted, and messages speak of keys by it."""
    from gateway.store import sealing  # noqa: PLC0415 - so that --help is quick

    found = [key if key == IN_CLEAR else sealing.name_of(key) for key in settings.secrets.encryption_key]
    if as_json:
        print_json(found)
    elif found:
        click.echo("\n".join(found))
    else:
        click.echo("None.", err=True)


@command.command("reencrypt")
@json_option
@settings_options
def reencrypt(*, settings: Settings, as_json: bool) -> None:
    """Encrypt all secrets and headers of endpoints anew with the first key, also while gateways run on the store.

    What is in clear, or encrypted with another key, is so no longer afterwards: the other keys can be dropped. Where a gateway
    runs on this machine it is the one that does it, with its own keys. With `clear` as the first key all of it is decrypted.
    """
    done = with_api(settings, lambda api: api.request("POST", "secrets", "reencrypt", takes_long=True))
    if as_json:
        print_json(done)
        return
    how = "are stored in clear" if done["keyName"] is None else f"are encrypted with the key {done['keyName']}"
    whose = "the one endpoint" if done["webhooks"] == 1 else f"all {done['webhooks']} endpoints"
    were = "was" if done["reencrypted"] == 1 else "were"
    click.echo(f"The secrets and headers of {whose} {how}: {done['reencrypted']} {were} stored otherwise before.")
