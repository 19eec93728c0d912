"""Resource mathematics of shares, reservations, limits and pool trees: pure."""
