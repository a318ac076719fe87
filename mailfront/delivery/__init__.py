"""The way out to the storage nodes: LMTP connections, one table of what trouble means, the handoff block."""
