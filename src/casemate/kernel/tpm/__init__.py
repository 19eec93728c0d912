"""The TPM 2.0: hardware or an owned swtpm."""
