"""The durable queue: rows, schedule, operations, handoff hints, and the way from a worker to the keeper."""
