"""Who the client is: hello, the small commands, and peers that speak for others (XCLIENT, XFORWARD).

Order: HELO or EHLO (LHLO on an LMTP listener) first; it ends any message that is under way. What a trusted peer says
about its client holds for the connection (XCLIENT; the dialogue starts anew) or for one message (XFORWARD). AUTH is
not offered. Messages themselves are in `mailfront.edge.session`.
"""

from mailfront.base.printable import printable
from mailfront.edge.connection import EdgeConnection
from mailfront.edge.stream import DialogueEnded
from mailfront.edge.trusted import ForwardedClient, read_attributes
from mailfront.mail.client import ClientInfo
from mailfront.mail.reply import reply

MAX_HELO_CHARS = 255

_OK = b"250 2.0.0 OK\r\n"
_BYE = b"221 2.0.0 Bye\r\n"
NESTED_MAIL = b"503 5.5.1 a message is already under way\r\n"


class EdgeDialogue(EdgeConnection):
    """The part of a dialogue that is not about one message."""

    _forwarded: ForwardedClient | None = None

    # Hello and the small commands.

    def smtp_HELO(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.1."""
        if self._hello(arg, extended=False, syntax=b"501 5.5.4 Syntax: HELO name\r\n"):
            self.say(f"250 {self.hostname}\r\n".encode())

    def smtp_EHLO(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.1, with the extensions that this listener offers this client."""
        if self._hello(arg, extended=True, syntax=b"501 5.5.4 Syntax: EHLO name\r\n"):
            listener = self.listener
            offers_tls = listener.settings.tls == "starttls" and listener.tls is not None and not self.tls
            # All commands that may follow in one group may; EHLO itself must end one (RFC 2920).
            self.early_count += self.stream.has_input
            self.stream.write(listener.capabilities(starttls=offers_tls, trusted=self.is_trusted, dsn=self.offers_dsn))

    def _hello(self, arg: str | None, *, extended: bool, syntax: bytes) -> bool:
        if not arg:
            self.say(syntax)
            return False
        if self.stage != "connect":
            self.count_idle_command()
        self.drop_transaction()
        self._forwarded = None
        self.is_extended = extended
        self.helo = printable(arg, MAX_HELO_CHARS)
        self.client = None
        self.stage = "helo"
        return True

    @property
    def offers_dsn(self) -> bool:
        """Whether DSN is offered to this client."""
        return self.listener.settings.dsn or self.is_trusted

    def smtp_RSET(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.5."""
        self.count_idle_command()
        if arg:
            self.say(b"501 5.5.4 Syntax: RSET\r\n")
        else:
            self.drop_transaction()
            self.stream.write(_OK)

    def smtp_NOOP(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.9."""
        self.count_idle_command()
        self.stream.write(_OK)

    def smtp_VRFY(self, arg: str | None) -> None:
        """Whether an address exists is only told at RCPT (RFC 5321 section 7.3)."""
        self.count_idle_command()
        self.say(b"252 2.5.2 try RCPT\r\n" if arg else b"501 5.5.4 Syntax: VRFY address\r\n")

    def smtp_EXPN(self, arg: str | None) -> None:
        """Members of a list are nobody's business."""
        self.say(b"502 5.5.1 EXPN is not offered\r\n")

    def smtp_HELP(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.8."""
        self.count_idle_command()
        self.say(b"214 2.0.0 see RFC 5321\r\n")

    def smtp_AUTH(self, arg: str | None) -> None:
        """Never offered on a listener that takes mail from outside."""
        self.say(b"502 5.5.1 AUTH is not offered\r\n")

    def smtp_PROXY(self, arg: str | None) -> None:
        """A PROXY header where none is expected: somebody claims to be someone else."""
        self.leave(reply(550, "5.7.1", "no PROXY header is taken from here"), end="protocol", reason="proxy_header")

    def unknown_command(self, arg: str | None) -> None:
        """Whatever is not a command here, an empty line too."""
        self.say(b"500 5.5.2 unknown command\r\n")

    def smtp_QUIT(self, arg: str | None) -> None:
        """RFC 5321 section 4.1.1.10. What was pipelined behind it is not looked at."""
        self.end = "quit"
        self.stream.write(_BYE)
        raise DialogueEnded

    # Clients that speak for others.

    async def smtp_XCLIENT(self, arg: str | None) -> None:
        """A trusted peer says who the client is; the dialogue then starts anew."""
        found = self._attributes("XCLIENT", arg)
        if found is None:
            return
        self.forget_client()
        self.helo = ""
        if found.ip is not None:
            self.ip, self.port = found.ip, found.port or 0
        if found.helo:
            self.helo = found.helo
        self.stage = "connect"
        await self.screen()
        self.stream.write(f"220 {self.hostname} {self.greeting_name}\r\n".encode())

    def smtp_XFORWARD(self, arg: str | None) -> None:
        """A trusted peer says whom the next message comes from; it counts for that message only."""
        found = self._attributes("XFORWARD", arg)
        if found is None:
            return
        self._forwarded = found if self._forwarded is None else self._forwarded.updated(found)
        self.client = None
        self.stream.write(_OK)

    def _attributes(self, command: str, arg: str | None) -> ForwardedClient | None:
        if not self.is_trusted:
            self.say(b"550 5.7.1 not for clients at your address\r\n")
        elif self.has_transaction:
            self.say(NESTED_MAIL)
        elif (found := read_attributes(command, arg)) is None:
            self.say(f"501 5.5.4 Syntax: {command} attribute=value...\r\n".encode())
        else:
            return found
        return None

    def client_info(self) -> ClientInfo:
        """The client as intake is told; made once per hello."""
        client = self.client
        if client is None:
            forwarded = self._forwarded or ForwardedClient()
            ip, port = (self.ip, self.port) if forwarded.ip is None else (forwarded.ip, forwarded.port or 0)
            client = self.client = ClientInfo(
                ip=ip,
                port=port,
                helo=forwarded.helo or self.helo,
                protocol=self.protocol,
                tls=self.tls,
                proxy_ip=self.peer_ip if self.peer_ip != ip else "",
                listener=self.listener.name,
            )
        return client

    def forget_client(self) -> None:
        """See `EdgeConnection`."""
        self._forwarded = None
        super().forget_client()

    def forget_forwarded(self) -> None:
        """The message that XFORWARD spoke of is over."""
        if self._forwarded is not None:
            self._forwarded = None
            self.client = None
