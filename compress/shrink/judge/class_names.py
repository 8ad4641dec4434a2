"""Names of classes as a command line gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compress.errors import DataError


@dataclass(frozen=True)
class ClassNames:
    """Classes of a network.

    Attributes:
        names: by label; empty where nobody says.
        merged: name in labels -> class that it counts as.
    """

    names: tuple[str, ...] = ()
    merged: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ClassNames:
        """Return the classes of texts, 'car+truck' for a class car as which objects labelled truck count, too.

        >>> ClassNames.parse(["person", "car+truck+bus"])
        ClassNames(names=('person', 'car'), merged={'truck': 'car', 'bus': 'car'})

        Raises:
            DataError: a name is empty or there twice.
        """
        rows = [[part.strip() for part in text.split("+")] for text in texts]
        merged = {other: row[0] for row in rows for other in row[1:]}
        names = tuple(row[0] for row in rows)
        every = [name for row in rows for name in row]
        for name in every:
            if not name or every.count(name) > 1:
                raise DataError(
                    f"classes: {name!r} is {'there twice' if name else 'empty'}, expected names, each once."
                )
        return cls(names, merged)

    def check_against(self, classes: Sequence[str]) -> None:
        """Refuse names that are others than those of the file.

        Raises:
            DataError: says both.
        """
        if self.names and self.names != tuple(classes):
            raise DataError(
                f"classes: {', '.join(self.names)} are named, the file's metadata has {', '.join(classes)}. Leave them "
                "out, or name these in this order."
            )
