"""The command `mailfront`: one module per noun. Talks to the running server over its admin socket."""
