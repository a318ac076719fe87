"""What an IMAP server says, as `imap_client` tells it: frozen values, in the order of the dialogue."""

from dataclasses import dataclass

from mailfront.protocol.imap_text import Status


@dataclass(frozen=True, slots=True)
class Greeting:
    """The server is there and nobody is logged in."""

    text: str


@dataclass(frozen=True, slots=True)
class Send:
    """The server asked for the next part of the command: send these bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class SearchResult:
    """UIDs that a search found; a search may give several of these, or none."""

    uids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BodyStart:
    """A message of this size begins."""

    size_bytes: int


@dataclass(frozen=True, slots=True)
class BodyPiece:
    """The next bytes of the message."""

    data: bytes


@dataclass(frozen=True, slots=True)
class BodyEnd:
    """The message is whole, and it is the one that was asked for."""

    uid: int


@dataclass(frozen=True, slots=True)
class Completed:
    """The command has ended. `code` is the response code in upper case, such as AUTHENTICATIONFAILED, or ''."""

    status: Status
    code: str
    text: str

    @property
    def is_ok(self) -> bool:
        """Whether the server did what was asked."""
        return self.status is Status.OK


@dataclass(frozen=True, slots=True)
class Bye:
    """The server is about to close the connection."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that can be selected, named as the server writes it."""

    name: str


Event = Greeting | Send | SearchResult | Folder | BodyStart | BodyPiece | BodyEnd | Completed | Bye
