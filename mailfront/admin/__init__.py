"""What administrators ask and order: plain typed services, the admin socket in front of them, and the HTTP page."""
