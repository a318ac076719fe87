"""Sockets and what runs over them: listeners, TLS, connection table, worker-keeper channel. No mail protocol."""
