"""The policy is what tb_polgen of tboot 1.10.5 writes for the same modules."""

from __future__ import annotations

import hashlib

from casemate.formats.tbootpolicy import LaunchModule, module_digest, write_policy


def test_the_bytes_are_those_of_tb_polgen() -> None:
    """--create --type halt --alg sha256; --add --num 0 --pcr none; --add --num 1 --pcr 19."""
    digests = [bytes([number]) * 32 for number in (1, 2)]
    expected = (
        bytes.fromhex("02020b 01000000 00000000 02")
        + bytes.fromhex("00ff01 00000000 01")
        + digests[0]
        + bytes.fromhex("011301 00000000 01")
        + digests[1]
    )
    assert write_policy([LaunchModule(None, digests[0]), LaunchModule(19, digests[1])]) == expected


def test_a_module_is_measured_by_its_options_and_its_content() -> None:
    """Vector: tb_polgen --cmdline "root=x quiet" over 64 KiB of the byte 0x5a."""
    content = b"\x5a" * (64 << 10)
    assert module_digest("root=x quiet", content).hex() == VECTOR
    assert module_digest("root=x", content) != module_digest("root=x quiet", content)
    empty = hashlib.sha256().digest()
    assert module_digest("", b"") == hashlib.sha256(empty + empty).digest()


VECTOR = "04227e4670f65dddabad3bb7a7d15003a700fcf48cb0c2dc4cdcd4abcf3d6161"
