"""Accept one message: who is it for, where does it live, deliver while the client waits, fold, answer."""
