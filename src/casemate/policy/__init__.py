"""Values to verdicts: acceptance, measurement layout, replay, appraisal, hardening: pure."""
