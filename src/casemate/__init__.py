"""Casemate: a hardened, attested hypervisor host for Linux/KVM that speaks the vSphere API."""

__version__ = "0.1.0"
