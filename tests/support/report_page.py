"""A report's page as a reader of its text."""

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "img", "br", "hr", "path", "use", "rect", "circle"}


class Page(HTMLParser):
    """Read a page's elements, ids, references and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html, self.stack, self.ids, self.links, self.images, self.text = text, [], [], [], [], ""
        self.cells: list[list[str]] = []
        self.in_table = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag not in VOID:
            self.stack.append(tag)
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [given[name] for name in ("href", "src", "xlink:href") if given.get(name)]
        if tag == "img":
            self.images.append(given)
        if tag == "table":
            self.in_table = given.get("id") == "table"
        if tag == "tr" and self.in_table:
            self.cells.append([])
        if tag in ("td", "th") and self.in_table:
            self.cells[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] in ("script", "style"):
            return
        self.text += data
        if self.in_table and self.cells and self.cells[-1] and "tr" in self.stack:
            self.cells[-1][-1] += data


def squeezed(text: str) -> str:
    return " ".join(text.split())
