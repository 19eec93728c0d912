"""The closed list of requests, replies and events of each process, and its framing: pure."""
