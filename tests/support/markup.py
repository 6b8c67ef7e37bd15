"""Fifty texts that would run in a page that took them for markup, script, style or an address."""

from __future__ import annotations

RUN = "document.title='run'"
_AROUND = [
    *("{}", "'{}'", '"{}"', "`{}`", "<!--{}-->", "<![CDATA[{}]]>", "]]>{}", "--!>{}", "${{{}}}"),
    *("</script>{}", "</style>{}", "</title>{}", "</textarea>{}", "</noscript>{}", "&lt;/p&gt;{}"),
]
_INSIDE = [
    f"<script>{RUN}</script>",
    f'<img src=x onerror="{RUN}">',
    f'<svg onload="{RUN}">',
]
_OTHERS = [
    *(f"javascript:{RUN}", f"data:text/html,<script>{RUN}</script>", f"'-({RUN})-'"),
    *(f"\u2028{RUN}\u2029", f"\x00<scr\x00ipt>{RUN}</script>"),
]
MARKUP = [around.format(inside) for around in _AROUND for inside in _INSIDE] + _OTHERS
assert len(set(MARKUP)) == 50
