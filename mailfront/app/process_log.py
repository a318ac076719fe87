"""Logs and metrics of one child process, set up before anything else of it runs."""

from pathlib import Path

from mailfront.config.model import Configuration
from mailfront.observe import log, metrics
from mailfront.observe.event_files import EventFile


def metrics_dir(config: Configuration) -> Path:
    """Where the processes of this front end keep their counters."""
    return config.server.runtime_dir / "metrics"


def start_process_log(process: str, config: Configuration) -> None:
    """Log and count as `process` from now on."""
    metrics.start(metrics_dir(config), process)
    log.configure(
        process,
        level=config.server.log_level,
        event_file=EventFile(config.server.events_dir, process),
        mask_addresses=config.server.mask_addresses,
    )
