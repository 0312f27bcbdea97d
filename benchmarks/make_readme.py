"""Writes README's generated parts: the table of flags, from the parameters themselves.

    python benchmarks/make_readme.py            # rewrites README.md
    python benchmarks/make_readme.py --check    # exit code 1 where README.md is out of step
"""
from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import train_model  # noqa: E402
import train_model_lea  # noqa: E402


def flag_table() -> str:
    """Every flag of both scripts as Markdown."""
    found: dict[str, list[tuple[str, str]]] = {}
    parsers = (train_model.make_parser(), train_model_lea.make_parser())
    for which, parser in enumerate(parsers):
        for action in parser._actions:
            flag = action.option_strings[-1]
            if flag == "--help":
                continue
            meaning, _, default = action.help.replace("%%", "%").rpartition(" (default: ")
            found.setdefault(flag, [("", ""), ("", "")])[which] = (meaning or action.help, default.rstrip(")") if meaning else "")
    lines = ["| flag | train_model.py | train_model_lea.py | meaning |", "|---|---|---|---|"]
    for flag, (factor, lea) in found.items():
        defaults = [f"{default}" if meaning else "-" for meaning, default in (factor, lea)]
        lines.append(f"| `{flag}` | {defaults[0]} | {defaults[1]} | {lea[0] or factor[0]} |")
    return "\n".join(lines)


PARTS = {"flags": flag_table}


def rendered(readme: str) -> str:
    """README with its generated parts made anew."""
    for name, make in PARTS.items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        readme = re.sub(pattern, lambda m, make=make: m[1] + make() + m[2], readme, flags=re.DOTALL)
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    before = path.read_text(encoding="utf-8")
    after = rendered(before)
    if "--check" in sys.argv:
        sys.exit(before != after)
    path.write_text(after, encoding="utf-8")
