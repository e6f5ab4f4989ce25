"""Whether a built site can be read without a network: what its pages, styles and scripts would fetch.

``python docs/offline.py docs/_build/html`` names every load from elsewhere, and exits 1 where there is one.
Links that a reader clicks are no loads.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
RELATIONS = {
    "stylesheet",
    "preload",
    "prefetch",
    "preconnect",
    "dns-prefetch",
    "icon",
    "modulepreload",
    "manifest",
}
ELSEWHERE = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"(?:url\(|@import)\s*['\"]?\s*((?:https?:)?//[^'\")\s]+)", re.IGNORECASE)
IN_SCRIPTS = re.compile(
    r"(?:fetch|importScripts|import)\(\s*['\"]((?:https?:)?//[^'\"]+)|\.src\s*=\s*['\"](https?://[^'\"]+)"
)


class Loads(HTMLParser):
    """Collects what a page loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one element."""
        given = {name: value or "" for name, value in attrs}
        address = given.get(LOADING.get(tag, ""), "")
        if tag == "link" and RELATIONS & set(given.get("rel", "").lower().split()):
            address = given.get("href", "")
        if ELSEWHERE.match(address):
            self.found.append(address)
        self.found += IN_STYLES.findall(given.get("style", ""))


def loads(file: Path) -> list[str]:
    """The addresses elsewhere that a file of a site loads by itself."""
    text = file.read_text(encoding="utf-8", errors="replace")
    if file.suffix == ".css":
        return IN_STYLES.findall(text)
    if file.suffix == ".js":
        return ["".join(found) for found in IN_SCRIPTS.findall(text)]
    page = Loads()
    page.feed(text)
    return page.found


def main() -> int:
    """Print what is fetched from elsewhere; 1 where anything is."""
    site = Path(sys.argv[1])
    files = [file for file in sorted(site.rglob("*")) if file.suffix in (".html", ".css", ".js")]
    found = [f"{file.relative_to(site)}: {address}" for file in files for address in loads(file)]
    print(*found, f"{len(files)} files, {len(found)} loads from elsewhere", sep="\n")
    return int(bool(found) or not files)


if __name__ == "__main__":
    sys.exit(main())
