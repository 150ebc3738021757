"""`gateway serve`: runs the gateway until it is asked to stop."""

import asyncio
import gc
import signal
from collections.abc import Callable
from importlib import metadata

import click

from gateway.cli.open_files import allow_files, files_needed
from gateway.cli.options import settings_options
from gateway.settings import Settings

_UVLOOP_FLOOR = (0, 23)  # earlier ones can close a stranger's socket after a connect timeout
_INTERRUPTED = 130  # what shells expect of a process that was interrupted


@click.command("serve")
@click.option("--host", metavar="HOST", help="The address to listen on; short for --set http.host=HOST.")
@click.option("--port", type=int, metavar="PORT", help="The port to listen on; short for --set http.port=PORT.")
@settings_options
def command(*, settings: Settings) -> None:
    """Run the gateway.

    SIGTERM or SIGINT stops it: what was accepted is stored, open attempts finish, and it ends with 0. Another one cuts short
    whatever the stopping waits for; what was being sent may then be sent again after the next start.
    """
    from gateway.telemetry import logs  # noqa: PLC0415 - only when it is going to run

    writer = logs.configure(settings.log)
    _allow_files(settings)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except asyncio.CancelledError:
        raise click.exceptions.Exit(_INTERRUPTED) from None
    except OSError as error:
        raise click.ClickException(f"the gateway cannot start: {error}") from error
    finally:
        writer.flush()


def _allow_files(settings: Settings) -> None:
    """Makes room for as many connections as the settings allow, or says that there is none."""
    import structlog  # noqa: PLC0415 - only when it is going to run

    needed = files_needed(settings)
    allowed = allow_files(needed)
    if allowed < needed:
        structlog.get_logger().warning(
            "files.too_few",
            allowed=allowed,
            needed=needed,
            http_max_connections=settings.http.max_connections,
            delivery_max_in_flight=settings.delivery.max_in_flight,
        )


async def _serve(settings: Settings) -> None:
    from gateway.app import Gateway  # noqa: PLC0415 - only when it is going to run

    stop = asyncio.Event()
    _stop_on_signals(stop)
    async with Gateway.open(settings) as gateway:
        # What is there now stays: the collector need not look at it again, nor look often (25 to 60 % more deliveries).
        gc.collect()
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        await gateway.serve(stop)


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first signal asks for a stop, the second one cancels whatever the stopping waits for."""
    loop = asyncio.get_running_loop()
    serving = asyncio.current_task()

    def on_signal() -> None:
        if stop.is_set() and serving is not None:
            serving.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """That of uvloop when it is installed and sound, else None for asyncio's own."""
    import structlog  # noqa: PLC0415 - only when it is going to run

    log = structlog.get_logger()
    try:
        version = metadata.version("uvloop")
    except metadata.PackageNotFoundError:
        return None
    if not is_sound(version):
        log.warning("uvloop.refused", version=version, needed=">=0.23")
        return None
    import uvloop  # noqa: PLC0415 - it may be missing

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def is_sound(version: str) -> bool:
    """Whether this version of uvloop may be used."""
    try:
        major, minor = (int(part) for part in version.split(".")[:2])
    except ValueError:
        return False
    return (major, minor) >= _UVLOOP_FLOOR
