"""The vocabulary: frozen values that travel between packages. No I/O, no policy, no state."""
