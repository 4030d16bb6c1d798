"""What classes are called: by the data set's names where they are known, else by their numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

Classes = Mapping[str, Sequence[str]]  # data set -> names, in the order of the numbers
Named = Callable[[int], str]  # number of a class -> what it is called; `str` where there are no names


def named(classes: Classes | None, dataset: str) -> Named:
    """What the classes of a data set are called; one without a name by its number."""
    names = (classes or {}).get(dataset, ())

    def name(number: int) -> str:
        known = names[number] if 0 <= number < len(names) else ""
        return known if known.strip() else str(number)

    return name


def have_names(classes: Classes | None, dataset: str) -> bool:
    """Whether classes of a data set are called otherwise than by their numbers, as those of digits are."""
    return any(name.strip() and name != str(number) for number, name in enumerate((classes or {}).get(dataset, ())))


def shortened(text: str, letters: int) -> str:
    """The beginning of a name that is too long for a figure."""
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"
