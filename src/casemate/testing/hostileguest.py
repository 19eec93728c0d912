"""A guest that means harm: it fills its disk, floods its serial port, and gives no memory back."""

from __future__ import annotations

SECTOR_SIZE = 512
# Real mode. For ever: write 32 KiB to the next place of the first disk (int 13h, function 43h),
# then 2,000 characters to the first serial port. It has no driver for a balloon, nor for anything.
_CODE = bytes.fromhex(
    "31c0 8ed8 8ec0 b443 b000 b280 be247c cd13 6683062c7c40 b9d007 baf803 b078 ee e2fd ebe2"
    "1000 4000 0000 0010 0100000000000000"
)
HOSTILE_SECTOR = _CODE.ljust(SECTOR_SIZE - 2, b"\0") + b"\x55\xaa"
"""The first sector of its disk."""
