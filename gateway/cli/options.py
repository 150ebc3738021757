"""Options that many commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from gateway import settings
from gateway.cli.tenant import TenantChoice

P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="Show at most so many."
)


def settings_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --config and --set; the command gets `settings`."""

    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="GATEWAY_CONFIG",
        show_envvar=True,
        metavar="FILE",
        help="The settings that differ from the defaults, as TOML.",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        callback=_parse_overrides,
        help="One setting, stronger than the file and the environment; may be repeated.",
    )
    @functools.wraps(command)
    def with_settings(*args: object, config: Path | None, overrides: dict[str, object], **rest: object) -> R:
        flags = {f"http.{key}": rest.pop(key) for key in ("host", "port") if key in rest}
        given = {name: value for name, value in flags.items() if value is not None}
        return command(*args, settings=settings.load(config, overrides={**overrides, **given}), **rest)

    return with_settings


def _parse_overrides(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, object]:
    overrides: dict[str, object] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator or name.count(".") != 1:
            raise click.BadParameter(f"{text!r} is not SECTION.KEY=VALUE, such as http.port=9000")
        overrides[name.strip()] = value.strip()
    return overrides


def tenant_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --organization and --mode; the command gets `tenant`."""

    @click.option(
        "--organization",
        envvar="GATEWAY_ORGANIZATION",
        show_envvar=True,
        metavar="ORG",
        help="Whose. Needed unless an API key says it.",
    )
    @click.option(
        "--mode", type=click.Choice(["live", "sandbox"]), help="Which of the organization's two worlds; live when absent."
    )
    @functools.wraps(command)
    def with_tenant(*args: object, organization: str | None, mode: str | None, **rest: object) -> R:
        return command(*args, tenant=TenantChoice(organization, mode), **rest)

    return with_tenant
