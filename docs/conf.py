"How the site is built. `make docs` calls it by `tools/build_docs.py`, which stages the pages."

import configparser
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

HERE = Path(__file__).resolve().parent
SETTINGS = configparser.ConfigParser(delimiters=["="], interpolation=None)
SETTINGS.read(HERE.parent / "settings.ini", encoding="utf-8")
CFG = SETTINGS["DEFAULT"]
LOG = logging.getLogger(__name__)

project = CFG["title"]
author = CFG["author"]
copyright = CFG["copyright"]
version = release = CFG["version"]
language = "en"

extensions = ["myst_nb"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
root_doc = "index"
smartquotes = False
nitpicky = False

nb_execution_mode = "off"  # the outputs that are stored are shown
nb_merge_streams = True
nb_ipywidgets_js = {}  # no script from elsewhere
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_heading_anchors = 4
myst_dmath_allow_space = False
myst_dmath_double_inline = True
suppress_warnings = ["myst.header"]  # a notebook may leave out a level of headings

html_theme = "furo"
html_title = f"{project} {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = dict(
    navigation_with_keys=True,
    top_of_page_buttons=[],
)

python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"
pygments_style = "tango"


# ---- mathematics as MathML: browsers show it without a script

_OPENED = re.compile(r"\\(bigg|Bigg|big|Big)\s*(?=[(\[]|\\\{|\\l)")
_CLOSED = re.compile(r"\\(bigg|Bigg|big|Big)(?![a-zA-Z])")
_FUNCTION = re.compile(r"(<mi>(?:log|exp|min|max|cos|sin|Pr|det)</mi>)(?!\s*<mo[^>]*>\()")


def _mathml(node: nodes.Node, block: bool) -> str:
    "TeX as MathML; a formula that cannot be converted is a warning, and is shown as its source."
    text = _CLOSED.sub(r"\\\1r", _OPENED.sub(r"\\\1l", node.astext()))
    text = text.replace(r"\dots", r"\ldots")
    try:
        return _FUNCTION.sub(r'\1<mspace width="0.17em"/>', tex2mathml(text, as_block=block))
    except (ValueError, SyntaxError) as error:
        LOG.warning("formula %r cannot be shown: %s", text[:60], error, location=node, type="math")
        return f"<code>{text.replace('&', '&amp;').replace('<', '&lt;')}</code>"


def _inline_math(self, node):
    self.body.append(_mathml(node, False))
    raise nodes.SkipNode


def _block_math(self, node):
    self.body.append(f'<div class="math">{_mathml(node, True)}</div>\n')
    raise nodes.SkipNode


# ---- a name of the package in backticks leads to its description

_NAME = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?=(?:\(\))?$)")
_LEFT_ALONE = (nodes.reference, nodes.title, nodes.raw, nodes.term)


def _names(env) -> dict[str, tuple[str, str]]:
    "Names that stand for one thing: full ones, and short ones that are no plain words."
    found, twice = {}, set()
    for full, entry in env.domains.python_domain.objects.items():
        if entry.aliased:
            continue
        parts = full.split(".")
        for name in {full, ".".join(parts[1:]), parts[-1]}:
            is_plain = name.islower() and not re.search(r"[_.]", name)
            if name == full or not is_plain:
                twice |= {name} & found.keys()
                found[name] = entry.docname, entry.node_id
    return {name: at for name, at in found.items() if name not in twice}


def _link_names(app, doctree, docname):
    "Make references of literals that name something of the package."
    if not hasattr(app.env, "cpo_names"):
        app.env.cpo_names = _names(app.env)
    for node in list(doctree.findall(nodes.literal)):
        match = _NAME.match(node.astext())
        at = app.env.cpo_names.get(match[0]) if match else None
        inside = node.parent
        while inside is not None and not isinstance(inside, _LEFT_ALONE):
            inside = inside.parent
        if at is None or inside is not None:
            continue
        uri = app.builder.get_relative_uri(docname, at[0])
        link = nodes.reference("", "", internal=True, refuri=f"{uri}#{at[1]}")
        node.replace_self(link)
        link += node


def _forget(app, env):
    "Names may have changed since the pages were last read."
    vars(env).pop("cpo_names", None)


def setup(app):
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    app.connect("env-updated", _forget)
    app.connect("doctree-resolved", _link_names)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
