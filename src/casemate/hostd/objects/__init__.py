"""Managed objects as views of the facts: for each type, one function a property."""
