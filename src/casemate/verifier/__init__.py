"""The attestation service: challenges, references, verdicts; runs elsewhere."""
