"""Settings of the kind `rspamd`."""

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field

from mailfront.base.settings import Settings


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _url(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if value.startswith("unix:/") and len(value) > len("unix:/"):
        return value
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise ValueError(f'{value!r} is not where rspamd can be; write "http://host:11333" or "unix:/path"')
    return value.rstrip("/")


class RspamdSettings(Settings):
    """Which rspamd, and what its actions mean here."""

    url: Annotated[
        tuple[Annotated[str, BeforeValidator(_url)], ...],
        BeforeValidator(_one_or_more),
        Field(strict=False, min_length=1, max_length=16),
    ] = ("http://127.0.0.1:11333",)
    """Normal worker or proxy of rspamd: `"http://host:11333"` or `"unix:/path"`. Or a list of them: they take turns,
    and one that does not answer is passed over."""
    spam_header: str = Field(default="X-Spam", pattern=r"^[!-9;-~]{1,76}$")
    """Field that the action `add header` adds, with the value `Yes`."""
    subject_prefix: str = Field(default="*** SPAM *** ", max_length=100)
    """What the action `rewrite subject` puts before the subject, if rspamd does not name a whole new one."""
    greylist: Literal["accept", "tempfail"] = "accept"
    """The action `greylist`. rspamd's own greylisting answers `soft reject` while a message must wait, so this is for
    an rspamd without it: `tempfail` would refuse such mail at each try."""
    reject: Literal["reject", "quarantine"] = "reject"
    """The action `reject`: refuse it, or keep it in quarantine."""
    strip: tuple[str, ...] = Field(default=("X-Spam", "X-Spam-*", "X-Spamd-*", "X-Rspamd-*"), strict=False)
    """Arriving fields to delete, because only rspamd may have written them. `*` at the end fits the rest."""
