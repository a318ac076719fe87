"""Counters that all workers of a front end share: what `greylist` and `rate` are made of.

`tallies` is what is counted and decided (pure), `client` asks from a worker, `service` answers in the keeper and keeps
the counters in the database. A question is one message each way; the keeper decides it in memory, in one step, so two
workers never both take the last one of a limit.

The database follows within a second, in one transaction for all that has changed. After a crash of the keeper what it
counted in its last second is forgotten: a limit then lets a few more pass, and a greylisted sender waits once more.
"""
