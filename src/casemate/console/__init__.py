"""The direct console of a host: a screen for the keyboard in front of it."""
