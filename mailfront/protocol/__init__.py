"""Sans-IO protocol cores: bytes in, events out. No sockets, no clock, no asyncio."""
