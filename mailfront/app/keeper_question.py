"""The supervisor's one question to the keeper: would this configuration lose something that its nodes own?"""

from pathlib import Path

from mailfront.app.worker import KEEPER_SOCKET
from mailfront.base.errors import ConfigError
from mailfront.config.model import Configuration
from mailfront.net.channel import Channel

TIMEOUT_S = 15.0


async def ask_keeper_about(running: Configuration, text: str, path: Path) -> None:
    """Raise ConfigError with the keeper's reasons if it refuses, Unavailable if it cannot be asked now."""
    channel = Channel(str(running.server.runtime_dir / KEEPER_SOCKET), "supervisor")
    channel.start()
    try:
        await channel.wait_connected(TIMEOUT_S)
        answer = await channel.request("check_nodes", {"text": text, "path": str(path)}, timeout_s=TIMEOUT_S)
    finally:
        await channel.close()
    if answer["problems"]:
        raise ConfigError(tuple(answer["problems"]))
