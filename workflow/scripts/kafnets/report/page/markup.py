"""Elements of HTML as text. Whatever is no element itself is escaped, wherever it comes from."""

import html

_EMPTY = {"br", "img", "meta"}  # elements that have no content and no end


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def join(*content):
    """Content as one piece of HTML: markup as it is, other text escaped, sequences joined, None left out."""
    return Markup("".join(map(_one, content)))


def element(tag, *content, **attributes):
    """An element of HTML.

    Args:
        tag: its name.
        content: as for :func:`join`.
        attributes: `class_` stands for class and `aria_label` for aria-label; True is an attribute without a
            value, None and False are none.
    """
    start = f"<{tag}{''.join(map(_attribute, attributes.items()))}>"
    return Markup(start if tag in _EMPTY else f"{start}{join(*content)}</{tag}>")


def _one(part):
    if part is None:
        return ""
    if isinstance(part, Markup):
        return part
    if isinstance(part, str):
        return html.escape(part, quote=False)
    return join(*part)


def _attribute(item):
    name, value = item
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
