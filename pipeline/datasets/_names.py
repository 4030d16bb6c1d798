"""Names that come with the data: of classes, and the parts of sample ids."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from pipeline.contracts import UserError

# control characters, halves of pairs that UTF-8 cannot hold, separators of lines and of paragraphs
REFUSED = ("Cc", "Cs", "Zl", "Zp")


def check_names(names: Iterable[str], where: str, what: str) -> None:
    """Check that names can be stored as UTF-8 and stand in one line, in any script and of any length.

    Args:
        names: of classes, files or folders.
        where: place, for the message.
        what: such as `class`.

    Raises:
        UserError: one cannot.
    """
    for name in names:
        # ImageNet has 1.3 million names: the quick question first
        if not name.isprintable() and any(unicodedata.category(character) in REFUSED for character in name):
            raise UserError(
                f"{where}: the name of a {what}, {name!a}, holds a line break, a control character or bytes that "
                "are no UTF-8, expected text in one line; rename it"
            )
