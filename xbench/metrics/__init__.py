"""The metrics, one file each."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)  # the folders metrics/ on XBENCH_PATH
