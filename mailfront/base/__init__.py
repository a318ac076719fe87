"""Pure helpers without mail in them: errors, units, ids, clock, back-off, secrets, named tasks."""
