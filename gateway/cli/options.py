"""Options that many commands share."""

import functools
import shlex
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
        _check_texts(click.get_current_context())
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


def _check_texts(context: click.Context) -> None:
    """Bytes that are not UTF-8 cannot be sent. Names of files may hold them, and are no `str` here."""
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        texts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(text, str) and not _is_utf8(text) for text in texts):
            # It is not shown: it may be a secret.
            raise click.BadParameter("it is not text in UTF-8.", context, parameter)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def tenant_options_with_help(*, organization: str, mode: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Adds --organization and --mode, explained by these; the command gets `tenant`."""
    organization_help, mode_help = organization, mode

    def add(command: Callable[..., R]) -> Callable[..., R]:
        @click.option("--organization", envvar="GATEWAY_ORGANIZATION", show_envvar=True, metavar="ORG", help=organization_help)
        @click.option("--mode", type=click.Choice(["live", "sandbox"]), help=mode_help)
        @functools.wraps(command)
        def with_tenant(*args: object, organization: str | None, mode: str | None, **rest: object) -> R:
            return command(*args, tenant=TenantChoice(organization, mode), **rest)

        return with_tenant

    return add


def tenant_options(command: Callable[..., R]) -> Callable[..., R]:
    """Adds --organization and --mode as most commands have them; the command gets `tenant`."""
    return tenant_options_with_help(
        organization="Whose. Needed unless an API key says it.",
        mode="Which of the organization's two worlds; live when absent.",
    )(command)


def command_like_this(*command: str) -> str:
    """The line that runs *command* on the same gateway, and for the same organization and mode, as the one that runs now."""
    given = click.get_current_context().params
    options = []
    for name in ("organization", "mode", "config"):
        if given.get(name) is not None:
            options += [f"--{name}", str(given[name])]
    for name, value in (given.get("overrides") or {}).items():
        options += ["--set", f"{name}={value}"]
    return shlex.join(["gateway", *command, *options])
