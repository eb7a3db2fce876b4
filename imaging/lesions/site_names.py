"""Names of the places where a lesion can be put; imports nothing heavy."""

LOBES = ("LUL", "LLL", "RUL", "RML", "RLL")  # left and right; upper, middle, lower
KINDS = ("auto", "free", "pleural", "vessel", "fissure")
LOBE = "lobe="


def check_site(site: str) -> str:
    """A site, which is one of `KINDS` or `lobe=` and one of `LOBES`.

    Raises: ValueError: If it is none.
    """
    if site in KINDS or (site.startswith(LOBE) and site[len(LOBE) :] in LOBES):
        return site
    raise ValueError(f"site {site!r}, expected {', '.join(KINDS)}, or lobe= and one of {', '.join(LOBES)}")


def needs_lobes(site: str) -> bool:
    """Whether a site can be found only where the lobes are known."""
    return site == "fissure" or site.startswith(LOBE)
