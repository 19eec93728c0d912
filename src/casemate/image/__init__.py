"""Builds VIBs, image profiles, boot banks and reference manifests."""
