"""Makes the page of the reasons for which channels are kept, from their table; docs/hooks.py adds it to the site."""

from __future__ import annotations

from passes.abstract_values.kept_reasons import REASONS

HEAD = """\
# Why channels are kept

`maskc explain`, `maskc compile -v` and reports name the operator that needs a masked channel, and a code for the
reason. `maskc explain CODE` prints what is here."""


def page() -> str:
    """The page in Markdown, with a section for each code."""
    parts = [HEAD]
    for reason in REASONS.values():
        parts += [f"## {reason.code}", f"*{reason.words}*", reason.meaning, f"**What to do.** {reason.action}"]
    return "\n\n".join(parts) + "\n"
