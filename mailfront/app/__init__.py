"""Composition: build the processes from the configuration, supervise, reload, drain."""
