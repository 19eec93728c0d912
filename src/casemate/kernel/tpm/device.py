"""A TPM 2.0 as the host uses it: measure, identify, prove.

One class for both kinds: the embedded swtpm and the machine's own TPM behind the resource manager.
Keys are primaries of the endorsement hierarchy made from fixed templates, so the same TPM always
has the same EK and AK and nothing needs to be stored; clock and counters in a quote are then
given in the clear. At most three objects and sessions are loaded at a time, because swtpm has no
resource manager in front of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import tpm2_pytss as tss
from tpm2_pytss.internal.templates import ek_template

from casemate.errors import TpmError
from casemate.formats.algorithms import ALGORITHMS
from casemate.formats.tpm import Attributes, EccKey, Public, Scheme, write_public
from casemate.formats.tpm.public import AK_ATTRIBUTES
from casemate.kernel.tpm.refusals import told

EK_CERTIFICATE_INDEX = 0x01C00002
"""NV index of the RSA 2048 EK certificate: TCG EK Credential Profile, template L-1."""

ASSET_TAG_INDEX = 0x01C10110
"""NV index of the owner's tag of this host, as ESXi has it."""

PCR_READ_COUNT = 8
"""PCR values in one TPM2_PCR_Read: TPML_DIGEST holds eight."""

PCR_READ_ATTEMPTS = 5
"""How often a read is begun again because somebody extended a PCR meanwhile."""

NV_CHUNK = 512
"""Bytes of one TPM2_NV_Read: below TPM2_PT_NV_BUFFER_MAX of every TPM in the field."""

AK_TEMPLATE = Public(
    name_algorithm="sha256",
    attributes=AK_ATTRIBUTES | Attributes.USER_WITH_AUTH | Attributes.NO_DA,
    policy=b"",
    symmetric=None,
    scheme=Scheme("ecdsa", "sha256"),
    key=EccKey("p256", None, b"", b""),
)
"""The AK: ECDSA on P-256 with SHA-256.

Not subject to dictionary attack protection: with it, each power cut after a use counts as a wrong
authorisation, and after a few of them the TPM would refuse to quote.
"""

_FIRMWARE_VERSION = 0x10B  # TPM_PT_FIRMWARE_VERSION_1; the second half follows
_TRANSIENT = 0x80000000  # the first handle of loaded objects: TPM_HT_TRANSIENT
_LOADED_SESSION = 0x02000000  # of sessions: TPM_HT_HMAC_SESSION
_MANY = 16
_NO_SUCH_HANDLE = 0x18B
_ALREADY_STARTED = 0x100


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The EK: its certificate (DER) and its TPMT_PUBLIC."""

    certificate: bytes
    public: bytes


@dataclass(frozen=True, slots=True)
class Maker:
    """Who made the TPM, and which firmware it runs."""

    manufacturer: str
    firmware_version: str


class Tpm:
    """An open TPM. Every method raises TpmError. Not for several threads at once."""

    def __init__(self, name: str, configuration: str, *, kind: str) -> None:
        os.environ.setdefault("TSS2_LOG", "all+none")  # our errors say it; the library need not
        self.kind = kind
        self._ak: Any = None
        self._open = False
        try:
            self._tcti = tss.TCTILdr(name, configuration)
            self._esys = tss.ESAPI(self._tcti)
            self._open = True
        except tss.TSS2_Exception as error:
            raise TpmError(
                f"the TPM at {configuration} cannot be opened: {error}",
                code="tpm-gone",
                component=kind,
            ) from error

    @classmethod
    def embedded(cls, path: Path) -> Self:
        """Open the swtpm that listens at ``path``, and free what a killed user of it left there.

        There is one user at a time, and no resource manager that would forget its objects.
        """
        tpm = cls("swtpm", f"path={path}", kind="swtpm")
        try:
            tpm._flush_leftovers()
        except BaseException:
            tpm.close()
            raise
        return tpm

    @classmethod
    def hardware(cls, device: Path = Path("/dev/tpmrm0")) -> Self:
        """Open the machine's own TPM; it is always addressed from locality 0."""
        return cls("device", str(device), kind="hardware")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Flush what was loaded and close the connection; the TPM goes on."""
        if not self._open:
            return
        self._open = False
        if self._ak is not None:
            with suppress(tss.TSS2_Exception):  # where the TPM went away first, nothing is left
                self._esys.flush_context(self._ak)
            self._ak = None
        self._esys.close()
        self._tcti.close()

    def command(self, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (the binding has no types)
        """Issue the command that the binding calls ``name``."""
        return self._do(getattr(self._esys, name), *arguments, **options)

    def startup(self) -> None:
        """Send TPM2_Startup(CLEAR); fine where it has been sent already."""
        try:
            self._esys.startup(tss.TPM2_SU.CLEAR)
        except tss.TSS2_Exception as error:
            if error.rc != _ALREADY_STARTED:
                raise told(error, self.kind) from error

    def shutdown(self) -> None:
        """Send TPM2_Shutdown(CLEAR), so that the next start counts as orderly."""
        self._do(self._esys.shutdown, tss.TPM2_SU.CLEAR)

    def maker(self) -> Maker:
        """Return manufacturer and firmware version."""
        _, data = self._do(
            self._esys.get_capability, tss.TPM2_CAP.TPM_PROPERTIES, tss.TPM2_PT.MANUFACTURER, 8
        )
        properties = {int(p.property): int(p.value) for p in data.data.tpmProperties}
        name = properties[int(tss.TPM2_PT.MANUFACTURER)].to_bytes(4, "big")
        high = properties[_FIRMWARE_VERSION]
        low = properties[_FIRMWARE_VERSION + 1]
        version = f"{high >> 16}.{high & 0xFFFF}.{low >> 16}.{low & 0xFFFF}"
        return Maker(name.rstrip(b"\0 ").decode("ascii", "replace"), version)

    def banks(self) -> tuple[str, ...]:
        """Return the names of the active PCR banks that Casemate knows."""
        _, data = self._do(self._esys.get_capability, tss.TPM2_CAP.PCRS, 0, 1)
        names = {a.id: name for name, a in ALGORITHMS.items()}
        return tuple(
            names[int(bank.hash)]
            for bank in data.data.assignedPCR
            if int(bank.hash) in names and any(bytes(bank.pcrSelect))
        )

    def extend(self, pcr: int, digests: Mapping[str, bytes], locality: int = 0) -> None:
        """Extend a PCR in the given banks from the given locality."""
        values = tss.TPML_DIGEST_VALUES(
            [
                tss.TPMT_HA(
                    hashAlg=ALGORITHMS[name].id, digest=tss.TPMU_HA(**{name: _sized(name, value)})
                )
                for name, value in digests.items()
            ]
        )
        self._at(locality)
        try:
            self._do(self._esys.pcr_extend, tss.ESYS_TR(pcr), values)
        finally:
            self._at(0)

    def read_pcrs(
        self, banks: Sequence[str], indexes: Sequence[int]
    ) -> dict[str, dict[int, bytes]]:
        """Return bank → PCR → value, all of one moment."""
        for _ in range(PCR_READ_ATTEMPTS):
            counters: set[int] = set()
            values = {bank: self._read_bank(bank, indexes, counters) for bank in banks}
            if len(counters) <= 1:
                return values
        raise TpmError(
            "the PCRs change faster than they can be read", code="tpm-busy", component=self.kind
        )

    def ek(self) -> Endorsement:
        """Return the EK made from template L-1, and its certificate."""
        with self._primary(_ek_public()) as (_, public):
            return Endorsement(self.read_nv(EK_CERTIFICATE_INDEX), public)

    def ak(self) -> bytes:
        """Return the TPMT_PUBLIC of the AK: ECDSA on P-256, restricted, fixed to this TPM."""
        self._load_ak()
        public, _, _ = self._do(self._esys.read_public, self._ak)
        return bytes(public.publicArea.marshal())

    def quote(self, nonce: bytes, banks: Sequence[str], pcrs: Sequence[int]) -> tuple[bytes, bytes]:
        """Return (TPMS_ATTEST, TPMT_SIGNATURE) over the same PCRs of some banks, at one moment."""
        self._load_ak()
        attest, signature = self._do(
            self._esys.quote, self._ak, _selection(banks, pcrs), tss.TPM2B_DATA(nonce)
        )
        return bytes(attest), bytes(signature.marshal())

    def activate_credential(self, blob: bytes, secret: bytes) -> bytes:
        """Return what a verifier hid in a challenge for this EK and AK.

        Args:
            blob: content of a TPM2B_ID_OBJECT.
            secret: content of a TPM2B_ENCRYPTED_SECRET.
        """
        credential = _sized_buffer(tss.TPM2B_ID_OBJECT, blob)
        encrypted = _sized_buffer(tss.TPM2B_ENCRYPTED_SECRET, secret)
        self._load_ak()
        with self._primary(_ek_public()) as (ek, _), self._endorsement_session() as session:
            answer = self._do(
                self._esys.activate_credential,
                self._ak,
                ek,
                credential,
                encrypted,
                session1=tss.ESYS_TR.PASSWORD,
                session2=session,
            )
        return bytes(answer)

    def read_nv(self, index: int) -> bytes:
        """Return the content of an NV index; empty where it is not defined or not written."""
        try:
            handle = self._esys.tr_from_tpmpublic(index)
        except tss.TSS2_Exception as error:
            if error.rc == _NO_SUCH_HANDLE:
                return b""
            raise told(error, self.kind) from error
        public, _ = self._do(self._esys.nv_read_public, handle)
        size = int(public.nvPublic.dataSize)
        if not int(public.nvPublic.attributes) & int(tss.TPMA_NV.WRITTEN):
            return b""
        return b"".join(
            bytes(self._do(self._esys.nv_read, handle, min(NV_CHUNK, size - start), start))
            for start in range(0, size, NV_CHUNK)
        )

    def _flush_leftovers(self) -> None:
        for first in (_TRANSIENT, _LOADED_SESSION):
            _, data = self._do(self._esys.get_capability, tss.TPM2_CAP.HANDLES, first, _MANY)
            for handle in data.data.handles:
                object_ = self._do(self._esys.tr_from_tpmpublic, int(handle))
                self._do(self._esys.flush_context, object_)

    def _load_ak(self) -> None:
        if self._ak is None:
            self._ak = self._create(_ak_public())[0]

    def _create(self, template: Any) -> tuple[Any, bytes]:  # noqa: ANN401 (the binding has no types)
        handle, public, *_ = self._do(
            self._esys.create_primary,
            tss.TPM2B_SENSITIVE_CREATE(),
            template,
            tss.ESYS_TR.ENDORSEMENT,
        )
        return handle, bytes(public.publicArea.marshal())

    @contextmanager
    def _primary(self, template: Any) -> Iterator[tuple[Any, bytes]]:  # noqa: ANN401 (as above)
        handle, public = self._create(template)
        try:
            yield handle, public
        finally:
            self._do(self._esys.flush_context, handle)

    @contextmanager
    def _endorsement_session(self) -> Iterator[Any]:
        session = self._do(
            self._esys.start_auth_session,
            tss.ESYS_TR.NONE,
            tss.ESYS_TR.NONE,
            tss.TPM2_SE.POLICY,
            tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL),
            tss.TPM2_ALG.SHA256,
        )
        try:
            self._do(self._esys.policy_secret, tss.ESYS_TR.ENDORSEMENT, session)
            yield session
        finally:
            self._do(self._esys.flush_context, session)

    def _read_bank(self, bank: str, indexes: Sequence[int], counters: set[int]) -> dict[int, bytes]:
        values: dict[int, bytes] = {}
        wanted = sorted(set(indexes))
        for start in range(0, len(wanted), PCR_READ_COUNT):
            part = wanted[start : start + PCR_READ_COUNT]
            counter, _, digests = self._do(self._esys.pcr_read, _selection([bank], part))
            if len(digests) != len(part):
                raise TpmError(
                    f"the TPM has no active {bank} bank",
                    code="tpm-bank",
                    component=self.kind,
                    remedy=f"Allocate the {bank} bank in the firmware's setup.",
                )
            counters.add(int(counter))
            values |= {pcr: bytes(value) for pcr, value in zip(part, digests, strict=True)}
        return values

    def _at(self, locality: int) -> None:
        if self.kind == "swtpm":
            self._do(self._tcti.set_locality, locality)

    def _do(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 (as above)
        try:
            return call(*arguments, **options)
        except tss.TSS2_Exception as error:
            raise told(error, self.kind) from error


def _sized(name: str, value: bytes) -> bytes:
    if len(value) != ALGORITHMS[name].size:
        raise TpmError(f"a {name} digest of {len(value)} bytes cannot be extended")
    return value


def _selection(banks: Sequence[str], pcrs: Sequence[int]) -> Any:  # noqa: ANN401 (the binding has no types)
    numbers = ",".join(map(str, sorted(set(pcrs))))
    return tss.TPML_PCR_SELECTION.parse("+".join(f"{bank}:{numbers}" for bank in banks))


def _sized_buffer(kind: Any, data: bytes) -> Any:  # noqa: ANN401 (the binding has no types)
    try:
        value, used = kind.unmarshal(len(data).to_bytes(2, "big") + data)
    except (tss.TSS2_Exception, OverflowError) as error:
        raise TpmError("the credential challenge is malformed", code="activation") from error
    if used != len(data) + 2:
        raise TpmError("the credential challenge is malformed", code="activation")
    return value


def _ek_public() -> Any:  # noqa: ANN401 (the binding has no types)
    return ek_template.lookup("EK-RSA2048").template


def _ak_public() -> Any:  # noqa: ANN401 (the binding has no types)
    area, _ = tss.TPMT_PUBLIC.unmarshal(write_public(AK_TEMPLATE))
    return tss.TPM2B_PUBLIC(publicArea=area)
