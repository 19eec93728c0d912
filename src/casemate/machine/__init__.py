"""The nouns of a host and their next step, with plans as data: pure."""
