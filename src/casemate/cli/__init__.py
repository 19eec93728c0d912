"""The commands casemate and esxcli: the only place that puts processes together."""
