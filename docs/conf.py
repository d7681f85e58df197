"""The documentation site: ``make docs`` builds it into build/docs, with warnings as errors and no network."""

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
# What stands in signatures and is documented elsewhere, or nowhere by name.
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|np|numpy|nn|PIL|collections|pathlib)\..*"),
    (r"py:.*", r"(Tensor|Path|Sequence|Mapping|Callable|Any|optional|Module|PIL\.Image)"),
    (r"py:.*", r"(BoxFormat|Variances|Degenerate|OnDegenerate|Transform|Sample|Report|Batch|Pair)"),
    (r"py:exc", r"\w+Error"),  # of another module
    (r"py:.*", r"(ssd_cuda\.config\.preset\.C|.*\._.*)"),
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
