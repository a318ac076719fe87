"""Mail in: SMTP and LMTP listeners. Syntax, limits, timers, TLS and bodies; what to do with a message is intake's."""
