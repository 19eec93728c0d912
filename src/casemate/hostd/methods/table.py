"""The one table of everything that is served."""

from __future__ import annotations

from casemate.hostd.methods.access import ACCESS_METHODS
from casemate.hostd.methods.accounts import ACCOUNT_METHODS
from casemate.hostd.methods.authorization import AUTHORIZATION_METHODS
from casemate.hostd.methods.autostart import AUTOSTART_METHODS
from casemate.hostd.methods.collector import COLLECTOR_METHODS
from casemate.hostd.methods.console import CONSOLE_METHODS
from casemate.hostd.methods.disks import DISK_METHODS
from casemate.hostd.methods.dynamictypes import DYNAMIC_TYPE_METHODS
from casemate.hostd.methods.esxcli import ESXCLI_METHODS
from casemate.hostd.methods.files import FILE_METHODS
from casemate.hostd.methods.history import HISTORY_METHODS
from casemate.hostd.methods.hostsystem import HOST_SYSTEM_METHODS
from casemate.hostd.methods.machines import MACHINE_METHODS
from casemate.hostd.methods.modules import MODULE_METHODS
from casemate.hostd.methods.networks import NETWORK_METHODS
from casemate.hostd.methods.options import OPTION_METHODS
from casemate.hostd.methods.ovf import OVF_METHODS
from casemate.hostd.methods.pending import PENDING_METHODS
from casemate.hostd.methods.pools import POOL_METHODS
from casemate.hostd.methods.search import SEARCH_METHODS
from casemate.hostd.methods.service import SERVICE_METHODS
from casemate.hostd.methods.statistics import STATISTICS_METHODS
from casemate.hostd.methods.systems import SYSTEM_METHODS
from casemate.hostd.methods.vm import VM_METHODS
from casemate.hostd.registry import Registry

REGISTRY = Registry(
    (
        *SERVICE_METHODS,
        *COLLECTOR_METHODS,
        *SEARCH_METHODS,
        *VM_METHODS,
        *MACHINE_METHODS,
        *CONSOLE_METHODS,
        *AUTOSTART_METHODS,
        *POOL_METHODS,
        *NETWORK_METHODS,
        *STATISTICS_METHODS,
        *AUTHORIZATION_METHODS,
        *ACCOUNT_METHODS,
        *OPTION_METHODS,
        *ACCESS_METHODS,
        *HISTORY_METHODS,
        *MODULE_METHODS,
        *SYSTEM_METHODS,
        *FILE_METHODS,
        *DISK_METHODS,
        *OVF_METHODS,
        *HOST_SYSTEM_METHODS,
        *ESXCLI_METHODS,
        *DYNAMIC_TYPE_METHODS,
        *PENDING_METHODS,
    )
)
