"""The one error family.

Every error that leaves a room of Casemate is one of these. Each class names the vSphere fault
it becomes on the wire (``fault``) and a stable reason code (``code``); each instance carries a
sentence (``reason``), what a person can do (``remedy``), and the component it is about.

    CasemateError                    SystemError
    ├── FormatError                  InvalidRequest      bytes that are not what they claim
    │   └── LimitError                                   a stated limit was passed
    ├── VerificationError            InvalidArgument     well-formed, but not to be trusted
    │   ├── SignatureError                               missing, wrong, or by a stranger
    │   ├── DigestError                                  content is not what was signed
    │   ├── AcceptanceError                              level not allowed or not backed
    │   └── AppraisalError                               evidence does not prove the claim
    ├── BootError                    SystemError         no bank could be booted
    ├── HostError                    HostConfigFault     this machine lacks something
    ├── TpmError                     SystemError         the TPM refused or went away
    ├── StateError                   InvalidState        not in this state
    │   └── PowerStateError          InvalidPowerState   carries requested and existing state
    ├── AdmissionError               InsufficientResourcesFault
    ├── ArgumentError                InvalidArgument     carries the property's name
    ├── NotFoundError                ManagedObjectNotFound
    ├── NotSupportedError            NotSupported
    ├── BusyError                    TaskInProgress
    ├── TimedOutError                Timedout
    ├── ToolsError                   ToolsUnavailable    no agent in the guest does it
    ├── CancelledError               RequestCanceled     somebody asked for the end of it
    ├── FileError                    CannotAccessFile    carries the datastore path
    │   ├── FileMissingError         FileNotFound
    │   ├── FilePresentError         FileAlreadyExists
    │   ├── FileLockedError          FileLocked
    │   ├── DatastorePathError       InvalidDatastorePath
    │   └── SpaceError               NoDiskSpace         carries the datastore's name
    ├── NamedError                                       about something that has a name
    │   ├── ExistsError              AlreadyExists
    │   ├── AbsentError              NotFound
    │   └── InUseError               ResourceInUse
    └── AccessError                  SecurityError
        ├── LoginError               InvalidLogin
        ├── NotAuthenticatedError    NotAuthenticated
        └── PermissionDeniedError    NoPermission        carries the missing privilege
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found wrong, as a value: stable code, what it is about, why, what to do."""

    code: str
    component: str
    reason: str
    remedy: str


class CasemateError(Exception):
    """Base of the family.

    ``code`` may be narrowed per instance: ``SignatureError("...", code="signature-missing")``.
    """

    default_code: ClassVar[str] = "internal"
    default_remedy: ClassVar[str] = "Look at the log of the process that reported this."
    fault: ClassVar[str] = "SystemError"

    def __init__(
        self,
        reason: str,
        *,
        code: str | None = None,
        component: str = "",
        remedy: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code or self.default_code
        self.component = component
        self.remedy = remedy or self.default_remedy

    def finding(self) -> Finding:
        """Return the error as a value."""
        return Finding(self.code, self.component, self.reason, self.remedy)


class FormatError(CasemateError):
    """Bytes that are not what they claim to be."""

    default_code = "malformed"
    default_remedy = "Get the file again from its source, or build it again."
    fault = "InvalidRequest"


class LimitError(FormatError):
    """A stated limit of size, depth or count was passed."""

    default_code = "limit"


class VerificationError(CasemateError):
    """Well-formed, but not to be trusted."""

    default_code = "unverified"
    default_remedy = "Do not use it; ask the provider for a good copy."
    fault = "InvalidArgument"


class SignatureError(VerificationError):
    """A signature that is missing, wrong, or by somebody who is not trusted."""

    default_code = "signature-invalid"


class DigestError(VerificationError):
    """Content that is not what was signed or announced."""

    default_code = "digest-mismatch"


class AcceptanceError(VerificationError):
    """An acceptance level that is not allowed here, or not backed by the signer."""

    default_code = "acceptance"


class AppraisalError(VerificationError):
    """Evidence that does not prove what it should prove."""

    default_code = "evidence"


class BootError(CasemateError):
    """No boot bank could be booted."""

    default_code = "boot"
    default_remedy = "Install a good image: casemate image build, then casemate up."


class HostError(CasemateError):
    """The machine lacks something, or refuses it."""

    default_code = "host"
    default_remedy = "Run make up as root: it installs what is missing."
    fault = "HostConfigFault"


class TpmError(CasemateError):
    """The TPM refused a command or went away."""

    default_code = "tpm"
    default_remedy = "Restart the host: casemate down, then casemate up."


class StateError(CasemateError):
    """The operation is not possible in the present state."""

    default_code = "state"
    default_remedy = "Bring it into the state that the operation needs."
    fault = "InvalidState"


class TimedOutError(CasemateError):
    """What was waited for did not happen in time."""

    default_code = "timed-out"
    default_remedy = "Try again with more time."
    fault = "Timedout"


class PowerStateError(StateError):
    """The VM is not in the power state that the operation needs."""

    default_code = "power-state"
    fault = "InvalidPowerState"

    def __init__(self, reason: str, *, requested: str, existing: str, component: str = "") -> None:
        super().__init__(reason, component=component)
        self.requested = requested
        self.existing = existing


class AdmissionError(CasemateError):
    """The hardware does not suffice for what was asked; carries the numbers."""

    default_code = "admission"
    default_remedy = "Lower the reservation, power off another VM, or raise the pool's."
    fault = "InsufficientResourcesFault"

    def __init__(
        self, reason: str, *, resource: str, requested: int, available: int, component: str = ""
    ) -> None:
        super().__init__(reason, component=component)
        self.resource = resource
        self.requested = requested
        self.available = available


class ArgumentError(CasemateError):
    """An argument that cannot be accepted."""

    default_code = "argument"
    default_remedy = "Correct the named argument."
    fault = "InvalidArgument"

    def __init__(self, reason: str, *, argument: str, component: str = "") -> None:
        super().__init__(reason, component=component)
        self.argument = argument


class NotFoundError(CasemateError):
    """No such object."""

    default_code = "not-found"
    default_remedy = "List the objects first: it may have been removed."
    fault = "ManagedObjectNotFound"


class NotSupportedError(CasemateError):
    """Known, but not offered by this host."""

    default_code = "not-supported"
    default_remedy = "This host does not offer it."
    fault = "NotSupported"


class BusyError(CasemateError):
    """Another task holds the object: ``task`` is its id, where it is one of the host's tasks."""

    default_code = "busy"
    default_remedy = "Wait for the running task, then try again."
    fault = "TaskInProgress"

    def __init__(
        self,
        reason: str,
        *,
        code: str | None = None,
        component: str = "",
        remedy: str | None = None,
        task: str = "",
    ) -> None:
        super().__init__(reason, code=code, component=component, remedy=remedy)
        self.task = task


class ToolsError(CasemateError):
    """No agent in the guest does what was asked."""

    default_code = "tools-unavailable"
    default_remedy = "Install qemu-guest-agent in the guest and let it run."
    fault = "ToolsUnavailable"


class CancelledError(CasemateError):
    """The task was cancelled, and what it had done is undone."""

    default_code = "cancelled"
    default_remedy = "Start it again if it was not meant."
    fault = "RequestCanceled"


class FileError(CasemateError):
    """A file of a datastore cannot be used so; ``file`` is its datastore path."""

    default_code = "file"
    default_remedy = "Look at the datastore: govc datastore.ls, or /folder in a browser."
    fault = "CannotAccessFile"

    def __init__(self, reason: str, *, file: str, remedy: str | None = None) -> None:
        super().__init__(reason, component=file, remedy=remedy)
        self.file = file


class FileMissingError(FileError):
    """There is no such file."""

    default_code = "file-missing"
    fault = "FileNotFound"


class FilePresentError(FileError):
    """There is such a file already."""

    default_code = "file-present"
    default_remedy = "Choose another name, remove it first, or ask to overwrite it."
    fault = "FileAlreadyExists"


class FileLockedError(FileError):
    """The file belongs to a VM, or is in use."""

    default_code = "file-locked"
    default_remedy = "Power off and unregister the VM that it belongs to, or detach it there."
    fault = "FileLocked"


class DatastorePathError(FileError):
    """Not a path of a datastore."""

    default_code = "datastore-path"
    default_remedy = "Write it like [datastore1] folder/file."
    fault = "InvalidDatastorePath"


class SpaceError(FileError):
    """The datastore has not enough free space."""

    default_code = "no-space"
    default_remedy = "Remove files that are no longer needed."
    fault = "NoDiskSpace"

    def __init__(self, reason: str, *, file: str, datastore: str) -> None:
        super().__init__(reason, file=file)
        self.datastore = datastore


def file_details(error: FileError) -> dict[str, str]:
    """Return what the fault of an error about a file carries."""
    return {
        "file": error.file,
        "datastorePath": error.file,
        "datastore": getattr(error, "datastore", ""),
    }


class NamedError(CasemateError):
    """About something that has a name and no id: ``name``."""

    def __init__(self, reason: str, *, name: str) -> None:
        super().__init__(reason, component=name)
        self.name = name


class ExistsError(NamedError):
    """There is one of this name."""

    default_code = "exists"
    default_remedy = "Choose another name."
    fault = "AlreadyExists"


class DuplicateNameError(NamedError):
    """Another object has the name: ``holder``, as ``Type:id``."""

    default_code = "duplicate-name"
    default_remedy = "Choose another name."
    fault = "DuplicateName"

    def __init__(self, reason: str, *, name: str, holder: str) -> None:
        super().__init__(reason, name=name)
        self.holder = holder


class AbsentError(NamedError):
    """There is none of this name."""

    default_code = "absent"
    default_remedy = "List them first: it may have been removed."
    fault = "NotFound"


class InUseError(NamedError):
    """Others use it."""

    default_code = "in-use"
    default_remedy = "Take it away from those that use it first."
    fault = "ResourceInUse"


class AccessError(CasemateError):
    """Not allowed."""

    default_code = "access"
    default_remedy = "Ask the administrator of the host."
    fault = "SecurityError"


class LoginError(AccessError):
    """Wrong user name or password, or the account is locked."""

    default_code = "login"
    default_remedy = "Check user name and password; after many failures wait and try again."
    fault = "InvalidLogin"


class NotAuthenticatedError(AccessError):
    """There is no such session (any more)."""

    default_code = "not-authenticated"
    default_remedy = "Log in first."
    fault = "NotAuthenticated"


class PermissionDeniedError(AccessError):
    """The session lacks a privilege."""

    default_code = "no-permission"
    fault = "NoPermission"

    def __init__(self, reason: str, *, privilege: str, component: str = "") -> None:
        super().__init__(reason, component=component)
        self.privilege = privilege
