"""What mailfront tells about itself: log lines, events, metrics, health. Every other package may import it."""
