"""Bytes to values and back: pure, bounded, hostile input expected."""
