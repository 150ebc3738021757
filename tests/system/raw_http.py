"""Requests that no library would send."""

import asyncio


async def ask_raw(port: int, request: bytes) -> bytes:
    """What comes back for *request*, until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    writer.write_eof()
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    except (ConnectionError, TimeoutError):
        return b""
    finally:
        writer.close()
