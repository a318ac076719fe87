"""Who is this address? LDAP or a file, behind a cache that outlives the directory's outages.

One question, `Directory.recipient`, and three answers: a record, no such address, cannot say. Where a mailbox lives is
not asked here; that is `cluster`. ldap3 is imported only in `ldap_server`.
"""
