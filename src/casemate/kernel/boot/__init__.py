"""From a boot bank to a running visor root, measured step by step."""
