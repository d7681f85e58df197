"""The documentation site: ``make docs`` builds it into build/docs, with warnings as errors and no network."""

import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "_ext")]

import ssd_cuda  # noqa: E402  # after the path

project = "ssd_cuda"
author = "the ssd_cuda authors"
release = version = ssd_cuda.__version__
copyright = "the ssd_cuda authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "presets",
]
exclude_patterns = ["_ext", "pictures/README.md"]
nitpicky = True  # a reference that leads nowhere is an error
# What stands in signatures and is documented elsewhere.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|np|numpy|nn|PIL|collections|pathlib|argparse)\..*"),
    (r"py:.*", r"(Tensor|Path|Sequence|Mapping|Callable|Any|optional|Module|PIL\.Image)"),
    (r"py:exc", r"\w+Error"),  # of another module
    (r"py:.*", r".*\._.*"),
    (r"py:.*", r"ssd_cuda\.(data\.sampling\.Share|models\.own_boxes\.box_options)"),  # not on the page
    (r"py:class", r"(.*\.)?(Processes|Speed|Validation)"),  # nor are these
    (
        r"py:class",
        r"(then|positives|pass_steps|pass_seconds|how|loss;)",
    ),  # prose that napoleon takes for types
]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of a dataclass once, with their text
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = "ssd_cuda"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False


def _is_alias(name: str, module: str | None) -> bool:
    """Whether a name of a signature is a type variable or an alias, which no page documents."""
    home, _, last = name.rpartition(".")
    for place in (home, module or ""):
        value = getattr(sys.modules.get(place), last, None)
        if value is not None:
            return not inspect.isclass(value) and not inspect.isroutine(value) and not inspect.ismodule(value)
    return False


def _missing(app, env, node, contnode):
    return contnode if _is_alias(node["reftarget"], node.get("py:module")) else None


def setup(app):
    app.connect("missing-reference", _missing)
