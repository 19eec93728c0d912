"""Pages and assets for host and verifier."""
