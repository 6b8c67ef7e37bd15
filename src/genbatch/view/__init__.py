"""The live page: the gallery's page, served on this machine, which follows runs and takes choices.

``import genbatch`` does not import it, because it needs packages that the extra ``cli`` installs.
"""

from ._server import Server, serving

__all__ = ["Server", "serving"]
