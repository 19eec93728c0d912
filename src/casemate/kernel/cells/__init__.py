"""One QEMU per VM in a cell of its own."""
