"""The privileged process: boot, store, TPM, cells, pools."""
