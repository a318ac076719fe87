"""The roots of mailfront's exceptions.

Expected results are values (`Outcome`, `Answer`, `Verdict`); an exception crosses a package border only if that
package's docstring names it. Nothing here is shown to a client: the edge maps any exception to 451.
"""


class MailfrontError(Exception):
    """Root of all errors that mailfront raises on purpose."""


class ConfigError(MailfrontError):
    """The configuration cannot be used.

    `problems` holds one line per mistake: where it is, what is wrong, what to do.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Unavailable(MailfrontError):
    """A part that is needed cannot answer now (keeper, database, directory). The caller says 4xx and may retry."""


class ProtocolError(MailfrontError):
    """A dialogue cannot go on."""


class LocalProtocolError(ProtocolError):
    """We used a protocol core in the wrong order: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the protocol or a limit. The connection must be closed."""
