"""TCG reference integrity manifests in memory; not signed."""

from __future__ import annotations

import hashlib

_RIM = """<?xml version="1.0" encoding="UTF-8"?>
<SoftwareIdentity xmlns="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
  xmlns:SHA256="http://www.w3.org/2001/04/xmlenc#sha256"
  name="Example" tagId="94f6b457-9ac9-4d35-9b3f-78804173b65a" version="{version}">
  <Entity name="Example Inc" regid="http://example.com" role="softwareCreator tagCreator"/>
  <Payload><File SHA256:hash="{digest}" name="{name}" size="{size}"/></Payload>
</SoftwareIdentity>
"""


def write_rim(log: bytes, *, name: str = "Example.rimel", version: str = "01") -> bytes:
    """Return a manifest that lists an event log."""
    digest = hashlib.sha256(log).hexdigest()
    return _RIM.format(version=version, digest=digest, name=name, size=len(log)).encode()
