"""Bringing mail from where it waits to where it belongs: IMAP sessions with nodes, queue runner, handoff, drain."""
