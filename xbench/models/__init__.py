"""The classifiers, one file per family, and their small shipped weights."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # the folders models/ on XBENCH_PATH
