"""Plug-ins of the kernel: code that VIBs bring, verified, and run behind walls of its own."""
