"""Which passwords and user names are accepted."""

from __future__ import annotations

import re

from casemate.errors import ArgumentError

SHORTEST = 10
"""Characters of a password of at least three classes."""

PHRASE = 20
"""Characters from which on the classes do not matter."""

LONGEST = 256
CLASSES = 3
_NAME = re.compile(r"[a-z_][a-z0-9_.-]{0,30}")


def check_name(user: str) -> None:
    """Raise ArgumentError unless this can be the name of an account."""
    if not _NAME.fullmatch(user):
        raise ArgumentError(
            "a user name has 1 to 31 small letters, digits, dots, hyphens and underscores",
            argument="user.id",
            component=user[:40],
        )


def check_password(user: str, password: str) -> None:
    """Raise ArgumentError, without repeating the password, unless it is good enough."""
    if len(password) > LONGEST or not password.isprintable():
        raise ArgumentError(
            f"a password has at most {LONGEST} printable characters", argument="user.password"
        )
    if user.lower() in password.lower():
        raise ArgumentError("a password does not hold the user name", argument="user.password")
    if len(set(password)) < 6:  # noqa: PLR2004  (fewer different characters are guessed)
        raise ArgumentError("a password has six different characters", argument="user.password")
    classes = (str.islower, str.isupper, str.isdecimal, lambda c: not c.isalnum())
    found = sum(any(map(kind, password)) for kind in classes)
    if len(password) < PHRASE and (len(password) < SHORTEST or found < CLASSES):
        raise ArgumentError(
            f"a password has {SHORTEST} characters of {CLASSES} classes (small and capital "
            f"letters, digits, others), or {PHRASE} of any",
            argument="user.password",
        )
