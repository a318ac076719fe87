"""The name that a node is told for a mailbox: one template for LMTP and for logins, so that both open one mailbox."""

from mailfront.mail.names import NodeUser


def node_user(template: str, mailbox: str, domain: str) -> NodeUser:
    """Fill `storage.node_user`. `mailbox` is the directory's value as it stands, `domain` that of its address."""
    return NodeUser(mailbox if template == "{mailbox}" else template.format(mailbox=mailbox, domain=domain))
