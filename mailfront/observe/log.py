"""The log of one process: JSON lines on a pipe, readable lines on a terminal, canonical lines also to the event file.

Two ways in:
- `log = observe.log.get("delivery")` at the top of a module, then `log.warning("cannot reach the node", node=...)`:
  sentences for people, by structlog, with context variables and tracebacks. They go to stderr only.
- `emit("delivery", id=..., node=...)`: one declared event (`observe.events`), made in one go, to stderr and to the
  event file. This is the path for one line per connection, message and attempt; it costs a few microseconds.

`configure()` is called once per process, before the loop runs; before that, `emit` goes to listeners only and raises
on an undeclared event, and loggers are structlog's default. Standard-library loggers (asyncio, libraries) join at
WARNING. Nothing here raises for a value that it cannot show, waits for the reader of the log, or prints a `Secret`.
"""

import asyncio
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, ParamSpec, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from mailfront.base.printable import printable
from mailfront.observe import events
from mailfront.observe.lines import LineOutput, StreamOutput

Listener = Callable[[dict[str, Any]], None]
P = ParamSpec("P")

MAX_VALUE_CHARS = 8192
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


class _State:
    """What `configure` decided for this process."""

    def __init__(self) -> None:
        self.process = ""
        self.configured = False
        self.mask_addresses = False
        self.stream: LineOutput | None = None
        self.event_file: LineOutput | None = None
        self.render_readable: Callable[[dict[str, Any]], bytes] | None = None
        self.listeners: list[Listener] = []
        self.reported: set[str] = set()
        self.second = 0
        self.second_text = ""


_state = _State()


def get(name: str) -> FilteringBoundLogger:
    """Make the logger of one module; `name` is the package or part that speaks. Cheap; may be called at import."""
    return cast(FilteringBoundLogger, structlog.get_logger(part=name))


def emit(event: str, /, **fields: Any) -> None:
    """Write one declared event. Values must be JSON types; what came from outside must have been made printable.

    Raises ValueError for an undeclared name or field until `configure` was called; afterwards it is logged once.
    """
    state = _state
    if wrong := events.problem(event, fields):
        _report(wrong)
    if state.mask_addresses:
        _mask(fields)
    record = {"time": _now_text(), "event": event, "process": state.process, **fields}
    for listener in state.listeners:
        listener(record)
    if state.stream is None and state.event_file is None:
        return
    line = _dumps(record)
    if state.event_file is not None:
        state.event_file.put(line)
    if state.stream is not None:
        state.stream.put(line if state.render_readable is None else state.render_readable(record))


def only_tells(function: Callable[P, None]) -> Callable[P, None]:
    """For functions that count and write down what has happened: a fault in one is logged, and fails nobody. Else a
    message that a node has taken could still be denied to its client, and come twice."""

    @functools.wraps(function)
    def guarded(*args: P.args, **named: P.kwargs) -> None:
        try:
            function(*args, **named)
        except Exception as error:
            if not _state.configured:
                raise  # a test must see it
            get("observe").error("what happened cannot be told", told_by=function.__qualname__, exc_info=error)

    return guarded


def configure(
    process: str,
    *,
    level: str = "info",
    fd: int = 2,
    readable: bool | None = None,
    event_file: LineOutput | None = None,
    mask_addresses: bool = False,
) -> None:
    """Set up the log of this process. Called once, again only by tests.

    `process`: worker-0, keeper, supervisor. `level`: debug, info, warning, error. `readable` None: decided by whether
    `fd` is a terminal. `event_file`: where events go besides, an `observe.event_files.EventFile`.
    """
    close()
    state = _state
    state.process = process
    state.configured = True
    state.mask_addresses = mask_addresses
    state.stream = StreamOutput(fd)
    state.event_file = event_file
    state.render_readable = None
    if readable if readable is not None else os.isatty(fd):
        state.render_readable = _readable_renderer(colors=os.isatty(fd))
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_LineLogger,
        cache_logger_on_first_use=True,
    )
    logging.raiseExceptions = False
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge(logging.WARNING))


def close() -> None:
    """Write what waits and stop writing. Called at the end of the process."""
    state = _state
    for output in (state.stream, state.event_file):
        if output is not None:
            output.close()
    state.stream = state.event_file = None
    state.configured = False


def flush() -> None:
    """Write what waits now; for the moment before `os._exit` or a fork."""
    for output in (_state.stream, _state.event_file):
        if output is not None:
            output.flush()


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with every event's dict while the block runs. It must be quick and must not raise."""
    _state.listeners.append(listener)
    try:
        yield
    finally:
        _state.listeners.remove(listener)


def dropped_lines_count() -> int:
    """How many lines were given up because nobody took them."""
    return sum(output.dropped_count for output in (_state.stream, _state.event_file) if output is not None)


def _report(wrong: str) -> None:
    if not _state.configured:
        raise ValueError(wrong)
    if wrong not in _state.reported and len(_state.reported) < 1000:
        _state.reported.add(wrong)
        get("observe").error("undeclared event, a bug of mailfront; the line is written as it is", problem=wrong)


def _now_text() -> str:
    now = time.time()
    second = int(now)
    if second != _state.second:
        _state.second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _state.second = second
    return f"{_state.second_text}.{int((now - second) * 1000):03d}Z"


def _mask(fields: dict[str, Any]) -> None:
    for name in events.ADDRESS_FIELDS & fields.keys():
        if isinstance(fields[name], str):
            fields[name] = events.mask_address(fields[name])
    if isinstance(fields.get("recipients"), list | tuple):
        fields["recipients"] = [
            {**each, "address": events.mask_address(str(each["address"]))}
            if isinstance(each, dict) and "address" in each
            else events.mask_address(each)
            if isinstance(each, str)
            else each
            for each in fields["recipients"]
        ]


def _dumps(record: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(record, default=str, option=_OPTIONS)
    except (TypeError, ValueError, RecursionError):
        # A lone surrogate, a huge int, a cycle: show what can be shown rather than lose the line.
        shown = {printable(str(key)): printable(str(value), MAX_VALUE_CHARS) for key, value in record.items()}
        return orjson.dumps(shown, option=_OPTIONS)


def _finish(_logger: Any, _method: str, event_dict: EventDict) -> tuple[tuple[dict[str, Any]], dict[str, Any]]:
    """Last processor: put the common fields in front and hand the dict, not a text, to `_LineLogger`."""
    record: dict[str, Any] = {
        "time": _now_text(),
        "level": event_dict.pop("level", "info"),
        "logger": event_dict.pop("part", ""),
        "message": event_dict.pop("event", ""),
        "process": _state.process,
        **event_dict,
    }
    if record.get("exc_info"):
        record = dict(structlog.processors.format_exc_info(None, "", record))
    return (record,), {}


class _LineLogger:
    """The bottom of structlog: one dict to one line on the stream."""

    def __init__(self, *_args: Any) -> None:
        pass

    def msg(self, record: dict[str, Any]) -> None:
        """Write one record."""
        stream, render = _state.stream, _state.render_readable
        if stream is None:
            sys.stderr.write(_dumps(record).decode())
        else:
            stream.put(_dumps(record) if render is None else render(record))

    debug = info = warning = error = critical = exception = log = msg


class _Bridge(logging.Handler):
    """Standard-library records as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. Never raises: a log line must not break a library's work."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError, KeyError):
            message = str(record.msg)
        fields: dict[str, Any] = {"exc_info": record.exc_info} if record.exc_info else {}
        level = "error" if record.levelno >= logging.ERROR else "warning"
        get(record.name).log(getattr(logging, level.upper()), printable(message, MAX_VALUE_CHARS), **fields)


def _readable_renderer(*, colors: bool) -> Callable[[dict[str, Any]], bytes]:
    console = structlog.dev.ConsoleRenderer(
        colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
    )

    def render(record: dict[str, Any]) -> bytes:
        shown: MutableMapping[str, Any] = {"timestamp": str(record["time"])[11:23]}
        for name, value in record.items():
            if name != "time" and value is not None:
                shown[name] = printable(value, MAX_VALUE_CHARS) if isinstance(value, str) else value
        if "message" in record:
            shown["event"] = shown.pop("message")
        if "exception" in record:
            shown["exception"] = "\n".join(printable(line, 1000) for line in str(record["exception"]).splitlines())
        return (str(console(None, "", shown)) + "\n").encode("utf-8", "replace")

    return render


def handle_loop_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exception handler for the event loop: logs what no task awaited, with its traceback."""
    error = context.get("exception")
    task = context.get("task") or context.get("future")
    get("loop").error(
        printable(str(context.get("message", "unhandled exception")), MAX_VALUE_CHARS),
        task=task.get_name() if isinstance(task, asyncio.Task) else "",
        exc_info=error if isinstance(error, BaseException) else None,
    )
