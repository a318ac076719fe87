"""Settings of the kind `mime`."""

from typing import Literal

from pydantic import Field, field_validator

from mailfront.base.settings import Settings, SizeBytes

_NAMES = (
    "*.exe", "*.com", "*.scr", "*.pif", "*.bat", "*.cmd", "*.cpl", "*.hta", "*.jar", "*.js", "*.jse", "*.lnk", "*.msi",
    "*.ps1", "*.vbe", "*.vbs", "*.wsf", "*.wsh",
)  # fmt: skip


class MimeSettings(Settings):
    """What may not be attached, and how complicated a message may be."""

    forbidden_names: tuple[str, ...] = Field(default=_NAMES, strict=False, max_length=1000)
    """Names of attachments that are refused, also inside zip files. `*` fits anything, `?` one character; the case of
    letters does not matter."""
    forbidden_types: tuple[str, ...] = Field(default=(), strict=False, max_length=1000)
    """Media types that are refused, such as `"application/x-msdownload"` or `"message/partial"`; `*` and `?` as
    above."""
    archives: bool = True
    """Look at the names inside zip files (and what is one: jar, docx and so on), also in zip files inside them."""
    archive_size: SizeBytes = Field(default=20 * 1024 * 1024, gt=0)
    """Larger zip files are not looked into."""
    max_parts: int = Field(default=1000, ge=1, le=100_000)
    """Most parts of a message, those of forwarded messages in it included."""
    max_depth: int = Field(default=30, ge=1, le=200)
    """Most levels of parts inside parts."""
    max_headers: int = Field(default=500, ge=1, le=2000)
    """Most fields in the header of the message, and of each part."""
    max_header_size: SizeBytes = Field(default=128 * 1024, ge=1024, le=256 * 1024 - 1)
    """Most bytes in the header of the message, and of each part. At most a little less than 256 KiB."""
    forbidden: Literal["reject", "quarantine"] = "reject"
    """What happens to a message with something forbidden in it. Beyond the limits it is always refused."""

    @field_validator("forbidden_names", "forbidden_types")
    @classmethod
    def _lower(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(each.lower() for each in value)
