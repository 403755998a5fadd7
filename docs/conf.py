"How the site is built. `make docs` calls it by `tools/build_docs.py`, which stages the pages."

import configparser
import functools
import posixpath
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from furo.navigation import get_navigation_tree
from sphinx.environment.adapters.toctree import TocTree
from sphinx.search.en import SearchEnglish
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
nb_render_markdown_format = "myst"  # tables in outputs are tables
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
    if re.search(r"\\\\[a-zA-Z]", text):
        LOG.warning("formula %r has doubled backslashes", text[:60], location=node, type="math")
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


# ---- what Sphinx and furo do for every page, done once

SearchEnglish.stem = functools.cache(SearchEnglish.stem)  # of a word
_ITEM, _BRANCH, _BOX = '<li class="', '<li class="toctree-l1', "<input "


def _make_menus(app, builder):
    "The menu as pages of each folder show it, with no page marked."
    how = dict(collapse=False, titles_only=True, maxdepth=-1, includehidden=True)
    app.cpo_menus = {}
    for folder in {posixpath.dirname(name) for name in app.env.found_docs}:
        page = posixpath.join(folder, "-")  # one that is in no menu
        tree = TocTree(app.env).get_toctree_for(page, builder, **how)
        app.cpo_menus[folder] = get_navigation_tree(builder.render_partial(tree)["fragment"])


def _marked(menu: str, uri: str) -> str:
    "The menu with a page marked, and the branch open that it is in."
    at = menu.find(f'href="{uri}"')
    if at < 0:
        return menu
    own, branch = menu.rfind(_ITEM, 0, at), menu.rfind(_BRANCH, 0, at)
    marks = [(own + len(_ITEM), "current current-page ")]
    if branch != own:
        marks.append((branch + len(_ITEM), "current "))
    if menu.startswith("has-children", menu.find(" ", branch + len(_ITEM)) + 1):
        marks.append((menu.find(_BOX, branch) + len(_BOX), 'checked="" '))
    for place, text in sorted(marks, reverse=True):
        menu = menu[:place] + text + menu[place:]
    return menu


def _without_menu(app, pagename, templatename, context, doctree):
    "Before furo, which would resolve it."
    context.pop("toctree", None)


def _with_menu(app, pagename, templatename, context, doctree):
    "After furo."
    folder = posixpath.dirname(pagename)
    uri = app.builder.get_relative_uri(posixpath.join(folder, "-"), pagename)
    context["furo_navigation_tree"] = _marked(app.cpo_menus[folder], uri)


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
    app.connect("write-started", _make_menus)
    app.connect("html-page-context", _without_menu, priority=400)
    app.connect("html-page-context", _with_menu, priority=600)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
