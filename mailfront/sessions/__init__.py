"""IMAP, POP3 and ManageSieve sessions: a login with us, a login at the mailbox's home, then a byte relay."""
