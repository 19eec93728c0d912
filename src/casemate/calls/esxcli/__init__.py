"""The table of esxcli's commands: what each takes, what it asks of the kernel, what it answers."""
