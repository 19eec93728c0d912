"""Pages of the verifier: plain values in, HTML out."""
