"""The command line. One module a family of commands, loaded when it is asked for, so that the others cost nothing."""

import importlib

import click

from gateway.errors import GatewayError
from gateway.version import VERSION

_FAMILIES = {
    "serve": "Run the gateway.",
    "check": "Look at the settings and the store.",
    "migrate": "Bring the store's schema up to date.",
    "endpoints": "Create, show, change, delete and test endpoints, and rotate their secrets.",
    "events": "Publish events.",
    "deliveries": "Show deliveries and retry them.",
    "keys": "Create, list and revoke API keys.",
    "organizations": "List organizations and pin their API version.",
    "audit-log": "List who changed what.",
    "nodes": "List the nodes that share the store.",
    "audit": "Prove from the store that nothing accepted was lost.",
    "backup": "Copy the store into a file, also while a gateway runs on it.",
    "secrets": "Make keys that encrypt secrets in the store, and encrypt anew.",
    "verify": "Verify a received webhook's signatures.",
    "copy": "Move everything from the embedded store into a PostgreSQL.",
}
"""Modules of this package (with `_` for `-`), each with a `command`, and a line for each so that showing them loads none."""


class Program(click.Group):
    """Finds commands in their modules, and ends with a sentence on standard error when the gateway refuses something."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_FAMILIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        if cmd_name not in _FAMILIES:
            return None
        command: click.Command = importlib.import_module(f"gateway.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        with formatter.section("Commands"):
            formatter.write_dl(list(_FAMILIES.items()))

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GatewayError as error:
            raise click.ClickException(str(error)) from error
        except BaseExceptionGroup as group:
            # A task group wraps what went wrong in it. The first refusal is the answer; anything else is a fault to see.
            expected, unexpected = group.split((GatewayError, click.ClickException))
            if unexpected is not None or expected is None:
                raise
            raise click.ClickException(_first_sentence(expected)) from group


def _first_sentence(group: BaseExceptionGroup[BaseException]) -> str:
    first = group.exceptions[0]
    if isinstance(first, BaseExceptionGroup):
        return _first_sentence(first)
    return first.message if isinstance(first, click.ClickException) else str(first)


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="gateway")
def program() -> None:
    """Delivers webhooks: signed, retried, on record, and none of them lost.

    The commands that show or change data talk to the gateway that runs on this machine, or open its store themselves when
    none runs. With GATEWAY_URL and GATEWAY_API_KEY in the environment they talk to a gateway elsewhere.
    """


def main() -> None:
    """Runs the command that the process was started with."""
    program(prog_name="gateway")
