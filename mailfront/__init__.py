"""mailfront: the front end of a mail cluster.

Mail comes in over SMTP or LMTP, a directory says who the recipients are, a stored map says which storage node is
home to each mailbox, and the message is delivered there over LMTP while the client waits. What cannot be delivered
now is made durable first and answered second. `docs/explanation/architecture.md` draws the whole.
"""

__version__ = "0.1.0"
